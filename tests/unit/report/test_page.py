import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitune.errors import ConfigError, RunError
from vitune.report import write_report

from .fake_run import METHODS, make_run

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</style><b>", "a & b' {{ 7*7 }}")
VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask of a page; SVG children that close themselves count as closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.errors: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.errors.append(f"</{tag}> closes {self.open[-3:]} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages of one run, many classes, several runs, hostile names and almost nothing."""
    root = tmp_path_factory.mktemp("runs")
    several = [make_run(root / f"run{i}", method=m, seed=i, images=300) for i, m in enumerate(METHODS)]
    hostile = make_run(
        root / "hostile",
        name=HOSTILE[1],
        names=list(HOSTILE),
        files=HOSTILE,
        images=200,
        epochs=3,
        changes={
            "method": HOSTILE[0],
            "protocol": HOSTILE[2],
            "command": HOSTILE[0],
            "environment": {HOSTILE[0]: HOSTILE[1]},
        },
    )
    result = json.loads((hostile / "result.json").read_text())
    result["edits"][0]["edit"] = HOSTILE[0]
    result["edits"][1]["role"] = HOSTILE[1]
    (hostile / "result.json").write_text(json.dumps(result))
    with (hostile / "log.jsonl").open("a") as file:
        file.write(json.dumps({"event": "warning", "message": HOSTILE[0]}) + "\n")
    empty = root / "empty"
    empty.mkdir()
    (empty / "result.json").write_text('{"format": 1}')
    groups: dict[str, list[Path]] = {
        "one": several[1:2],
        "many classes": [make_run(root / "flowers", classes=102, images=600)],
        "several": several,
        "hostile": [hostile],
        "several hostile": [hostile, hostile],
        "empty": [empty],
        "several empty": [empty, empty],
    }
    return {
        name: write_report(
            runs, root / f"{name}.html", title=HOSTILE[0] if "hostile" in name else None
        ).read_text()
        for name, runs in groups.items()
    }


NAMES = ("one", "many classes", "several", "hostile", "several hostile", "empty", "several empty")


@pytest.fixture(params=NAMES)
def page(request: pytest.FixtureRequest, pages: dict[str, str]) -> Page:
    return Page(pages[request.param])


def test_elements_are_closed_in_order(page: Page) -> None:
    assert page.errors == []
    assert page.open == []


def test_one_h1_and_headings_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_landmarks_and_language(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    assert page.all("nav")[0]["aria-label"]
    assert page.all("a")[0]["href"] == "#main", "the first link skips to the results"


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [value for _, attributes in page.elements if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    used = [name for _, a in page.elements for name in (a.get("aria-labelledby") or "").split()]
    used += [(a["href"] or "")[1:] for a in page.all("a")]
    assert set(used) <= set(ids)


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")) or value == "data:,", (
                tag,
                value,
            )
    text = "".join(page.text)  # the style sheet is text to this parser
    assert ".skip" in text
    assert "@import" not in text
    assert "url(" not in text
    assert not page.all("iframe", "object", "embed", "base")


def test_only_our_script_may_run(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    policy = next(a["content"] or "" for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_policy_holds_the_hash_of_the_script(pages: dict[str, str]) -> None:
    script = re.search(r"<script>(.*?)</script>", pages["one"], re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in pages["one"]


def test_drawings_are_named_and_described(page: Page) -> None:
    for attributes in page.all("svg"):
        if attributes.get("role") == "img":
            assert len((attributes["aria-labelledby"] or "").split()) == 2
        else:
            assert attributes["aria-hidden"] == "true"
    assert all(attributes["alt"] for attributes in page.all("img"))


def test_tables_have_captions_and_scopes(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))


@pytest.mark.parametrize("name", ["hostile", "several hostile"])
def test_what_users_wrote_stays_text(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert all((a.get("src") or "").startswith("data:image/jpeg") for a in page.all("img"))
    text = "".join(page.text)
    for words in HOSTILE:
        assert words in text, "shown as it is written"
    for raw in HOSTILE[:3]:
        assert raw not in pages[name]


def test_headline(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["one"]).text)
    for words in (
        "91.3\u00a0%",
        "Test accuracy",
        "95\u00a0% interval (Wilson)",
        "train800val200, last epoch",
    ):
        assert words in text


def test_sections_of_one_run(pages: dict[str, str]) -> None:
    page = Page(pages["one"])
    text = " ".join(page.text)
    for words in (
        *("What was tuned where", "Costs", "Curves", "What is taken for what", "Worst mistakes", "Settings"),
        *(
            "Make it again",
            "vitune train data/cifar10",
            "2 x Intel Xeon",
            "101 times fewer than full fine-tuning",
        ),
        *("Confusion matrix", "mixup=0.0 has no effect"),
    ):
        assert words in text
    assert len(page.all("img")) == 24
    assert len([a for a in page.all("td") if "hit" in (a.get("class") or "").split()]) == 10


def test_many_classes_get_pairs_instead_of_a_matrix(pages: dict[str, str]) -> None:
    page = Page(pages["many classes"])
    text = " ".join(page.text)
    assert "Most confused pairs" in text
    assert "Hardest classes" in text
    assert "Confusion matrix" not in text


def test_several_runs_are_compared_and_collapsed(pages: dict[str, str]) -> None:
    page = Page(pages["several"])
    assert "5 runs compared" in page.text
    runs = [a for a in page.all("details") if a.get("class") == "run"]
    assert len(runs) == 5
    assert not [a for a in runs if "open" in a]
    assert len(page.all("img")) == 5 * 12


def test_what_is_missing_is_said(pages: dict[str, str]) -> None:
    text = " ".join(Page(pages["empty"]).text)
    for words in (
        *("config.json is missing", "log.jsonl is missing", "predictions.npz is missing", "not measured"),
        *(
            "Accuracy was not measured",
            "result.json does not say which parts were tuned",
            "command was not recorded",
        ),
    ):
        assert words in text


def test_a_run_without_mistakes_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=20, epochs=1)
    with np.load(run / "predictions.npz") as file:
        arrays = dict(file)
    arrays |= {"predicted": arrays["label"], "thumbnails": np.zeros((0, 64, 64, 3), np.uint8)}
    np.savez(run / "predictions.npz", **(arrays | {"thumbnail_index": np.zeros(0, int)}))
    text = " ".join(Page(write_report([run], tmp_path / "a.html").read_text()).text)
    assert "There is no mistake to show." in text


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=50, epochs=2)
    first = write_report([run], tmp_path / "1.html").read_bytes()
    assert write_report([run], tmp_path / "2.html").read_bytes() == first


def test_file_names_that_are_no_text_are_shown_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=100, epochs=1, files=("bad\udc80name.jpg",))
    assert b"bad\\udc80name.<wbr>jpg" in write_report([run], tmp_path / "a.html").read_bytes()


def test_an_old_report_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=20, epochs=1)
    destination = tmp_path / "out" / "deeper" / "report.html"
    assert write_report([run], destination) == destination
    destination.write_text("old")
    write_report([run], destination)
    assert destination.read_text().startswith("<!doctype html>")
    assert [path.name for path in destination.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", images=20, epochs=1)
    destination = tmp_path / "out" / "report.html"
    write_report([run], destination)
    before = destination.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"report\.html cannot be written: No space left on device"):
        write_report([run], destination)
    assert destination.read_bytes() == before
    assert [path.name for path in destination.parent.iterdir()] == ["report.html"]


def test_a_folder_as_destination(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=20, epochs=1)
    with pytest.raises(RunError, match=r"is a folder; name the file to write, such as .*report\.html"):
        write_report([run], tmp_path)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", images=20, epochs=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_report([run], tmp_path / "file" / "report.html")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run was given"):
        write_report([], tmp_path / "report.html")


def test_a_bad_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no result\.json"):
        write_report([tmp_path], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_report_needs_no_torch() -> None:
    program = (
        "import sys, vitune.report; print([m for m in ('torch', 'timm', 'matplotlib') if m in sys.modules])"
    )
    result: Any = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from vitune.errors import RunError
from vitune.report.fields import Fields, read_object
from vitune.report.suite_page import suite_page, write_suite_report

from .fake_comparison import make_comparison
from .test_browser import CHROMIUM, chromium

MEASURING = Path(__file__).with_name("measuring_suite.html")


def estimate(mean: float, over: str = "seeds") -> dict[str, Any]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "over": over, "seeds": 3}


def content(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    comparison = json.loads(make_comparison(tmp_path / "c.json").read_text())
    accuracy = {"linear": estimate(0.8), "ssf": estimate(0.9)}
    row = {"accuracy": accuracy, "difference": {"linear": None, "ssf": estimate(0.1)}, "best": "ssf"}
    over = {"above": 2, "below": 0, "open": 1, "interval": [0.1, -0.02, 0.22]}
    methods = [
        {"method": name, "accuracy": accuracy[name], "rank": 1.5, "best": name == "ssf", "costs": {}}
        for name in accuracy
    ]
    methods[1] |= {"difference": estimate(0.1), "over_tasks": over}
    return {
        "format": 1,
        "suite": {
            "name": "mine",
            "title": "<b>Mine</b>",
            "protocol": "p",
            "tasks": 2,
            "changed": {"epochs": 1},
        },
        "headline": "mean over tasks",
        "model": "vit",
        "baseline": "linear",
        "protocol": {"name": "p-1", "seeds": [0, 1, 2]},
        "settings": {"epochs": 1},
        "command": "vitune bench mine",
        "methods": methods,
        "means": [{"name": "mean over tasks", **row}],
        "rows": [
            {"name": "birds", "group": "animals", "task": "birds", **row},
            {"name": "noise", "group": "noise", "task": "birds", **row, "extra": {"ssf": {"mce": 0.5}}},
        ],
        "comparisons": {"birds": {key: comparison[key] for key in ("data", "protocol", "methods")}},
        "failures": [
            {
                "task": "birds",
                "method": "lora",
                "stage": "final",
                "seed": "1",
                "error": "E: <i>",
                "file": "f.json",
            }
        ],
        "published": [
            {
                "label": "SSF",
                "method": "ssf",
                "backbone": "ViT-B/16",
                "protocol": "theirs",
                "source": "a paper",
                "level": "quoted",
                "tasks": {"birds": 92.0},
                "groups": {},
                "mean_of_tasks": 92.0,
            }
        ],
        **changes,
    }


def test_the_tables(tmp_path: Path):
    page = suite_page(Fields(content(tmp_path), "suite.json"))
    assert page.verdict.startswith("ssf is best in the mean over tasks of these tasks: ")
    assert "(1 of the suite's 2 tasks)" in page.lead
    assert page.lead.endswith("Changed from the suite: epochs 1.")
    linear, ssf = page.rows
    assert (linear.accuracy.words, ssf.difference.words, ssf.clear) == (
        "80.0\u00a0%",
        "+10.0 (+9.0 to +11.0)",
        True,
    )
    first, second = page.beside
    assert first is None
    assert second is not None
    assert (second.counts, second.over_tasks) == ("2 / 1 / 0", "+10.0 (-2.0 to +22.0)")
    birds, noise = page.tasks
    assert [cell.best for cell in birds.cells] == [False, True]
    assert birds.cells[0].interval == "79.0 to 81.0"
    assert noise.cells[1].extra == "mCE 50.0"
    assert birds.key == noise.key == "task-1", "a further set leads to the task whose runs were tested"
    assert page.over_words == " over the seeds"
    assert page.sections[0].report == "birds/report.html"


def test_published_numbers_stand_apart_with_their_evidence(tmp_path: Path):
    page = suite_page(Fields(content(tmp_path), "suite.json"))
    assert page.published is not None
    (line,) = page.published.lines
    assert (line.here.words, line.level, line.protocol) == ("90.0", "quoted", "theirs")
    assert [number.words for number in line.numbers] == ["92.0", "92.0"]
    assert page.published.heads == ("Mean over tasks", "birds")
    assert page.published.levels == (("quoted", "in a benchmark or a paper that quotes it"),)
    assert suite_page(Fields(content(tmp_path, published=[]), "suite.json")).published is None


def test_intervals_over_images_are_marked_where_others_are_over_seeds(tmp_path: Path):
    values = content(tmp_path)
    values["rows"][1]["accuracy"] = {"linear": estimate(0.5, "images"), "ssf": None}
    page = suite_page(Fields(values, "suite.json"))
    assert page.tasks[1].cells[0].interval == "49.0 to 51.0 (images)"
    assert page.tasks[1].cells[1].amount.words == "-"
    assert "one marked (images)" in page.over_words


def test_nothing_is_called_best_unless_the_results_say_so(tmp_path: Path):
    values = content(tmp_path)
    values["methods"][1]["best"] = False
    for row in (*values["rows"], *values["means"]):
        row["best"] = None
    page = suite_page(Fields(values, "suite.json"))
    assert page.verdict.startswith("No method is marked as best in the mean over tasks")
    assert not any(cell.best for row in (*page.tasks, *page.means) for cell in row.cells)


def test_the_page_is_escaped_and_says_how_to_make_it_again(tmp_path: Path):
    source = tmp_path / "suite.json"
    source.write_text(json.dumps(content(tmp_path)))
    text = write_suite_report(source, tmp_path / "r.html").read_text()
    assert "<b>Mine</b>" not in text
    assert "E: <i>" not in text
    assert "birds, lora, seed 1" in text
    assert "vitune bench mine" in unescape(text)
    assert 'src="' not in text.replace('src="data:', "")
    assert suite_page(read_object(source)).failures[0].file == "f.json"


def test_another_format_is_refused(tmp_path: Path):
    path = tmp_path / "suite.json"
    path.write_text('{"format": 7}')
    with pytest.raises(RunError, match="has format 7, but this version of vitune reads format 1"):
        write_suite_report(path, tmp_path / "r.html")


@pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason="no chromium on this machine: install it to look at the page"
)
def test_the_page_in_a_dark_browser_wide_and_narrow(tmp_path: Path):
    values = content(tmp_path)
    values["rows"][1]["accuracy"] = {"linear": estimate(0.85), "ssf": None}
    source = tmp_path / "suite.json"
    source.write_text(json.dumps(values))
    write_suite_report(source, tmp_path / "suite.html")
    frames = "".join(
        f'<iframe name="{width}" src="suite.html" style="width:{width}px;height:900px"></iframe>'
        for width in (360, 1280)
    )
    (tmp_path / "wrapper.html").write_text(MEASURING.read_text().replace("FRAMES", frames))
    done = chromium(
        tmp_path / "profile",
        "--blink-settings=preferredColorScheme=0",
        "--window-size=1400,900",
        "--dump-dom",
        (tmp_path / "wrapper.html").as_uri(),
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    measured = json.loads(unescape(found.group(1)))
    assert set(measured) == {"360", "1280"}
    for frame in measured.values():
        start, highest, lowest, other = frame["sorted"]
        assert start == ["birds", "noise", "Mean over tasks"]
        assert highest == ["noise", "birds", "Mean over tasks"], "means stay below"
        assert lowest == ["birds", "noise", "Mean over tasks"]
        assert other == ["birds", "noise", "Mean over tasks"], "what is missing stays below"
        assert (frame["closed"], frame["link"], frame["scroll"], frame["wide"]) == (True, "#task-1", 0, [])
        assert frame["loaded"] == []
        background, text = (
            sum(map(int, re.findall(r"\d+", frame[key])[:3])) for key in ("background", "color")
        )
        assert background < 150
        assert text > 400
    assert "CONSOLE" not in done.stderr

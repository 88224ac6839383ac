"""The page in a real browser: no sideways scrolling, no console errors, colours, tooltips, printing."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from vitune.report import write_report

from .fake_run import METHODS, make_run
from .pictures.small import add_everything

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
MEASURING = Path(__file__).with_name("measuring_page.html")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--enable-logging=stderr"),
)


def chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine: install it to look at the report in a browser")
    root = tmp_path_factory.mktemp("reports")
    several = [make_run(root / f"run{i}", method=m, seed=i, images=300) for i, m in enumerate(METHODS)]
    long = make_run(
        root / "long",
        name="a_run_name_without_any_space_" * 6,
        names=["an unusually long class name " * 4 + str(i) for i in range(40)],
        files=("a/very/deep/folder/" * 5 + "x" * 120 + ".jpg",),
        images=800,
        changes={"command": "vitune train " + "x" * 300, "method": "lora(rank=4)," * 20},
    )
    flowers = make_run(root / "flowers", classes=102, images=600)
    empty = root / "empty"
    empty.mkdir()
    (empty / "result.json").write_text('{"format": 1}')
    write_report(several[1:2], root / "one.html")
    write_report([*several, long], root / "several.html")
    write_report(several[:2], root / "pair.html")
    write_report([long], root / "long.html")
    explained = add_everything(make_run(root / "explained", images=50))
    write_report([explained], root / "explained.html")
    write_report([flowers], root / "flowers.html")
    write_report([empty], root / "empty.html")
    return root


@pytest.fixture(scope="module", params=["light", "dark"])
def measured(reports: Path, request: pytest.FixtureRequest) -> tuple[str, dict[str, dict], str]:
    frames = "".join(
        f'<iframe name="{name} {width}" src="{name}.html" style="width:{width}px;height:900px"></iframe>'
        for name in ("one", "several", "long", "flowers", "explained", "empty")
        for width in (360, 1280)
    )
    (reports / "wrapper.html").write_text(MEASURING.read_text().replace("FRAMES", frames))
    scheme = "1" if request.param == "light" else "0"
    result = chromium(
        reports / f"profile-{request.param}",
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1400,900",
        "--dump-dom",
        (reports / "wrapper.html").as_uri(),
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stderr[-2000:]
    return request.param, json.loads(unescape(found.group(1))), result.stderr


def test_no_sideways_scrolling(measured: tuple[str, dict[str, dict], str]) -> None:
    _, frames, _ = measured
    assert len(frames) == 12
    for name, frame in frames.items():
        assert frame["scroll"] <= frame["width"], (name, frame)
        assert frame["wide"] == [], (name, frame["wide"])


def test_no_console_message_and_nothing_loaded(measured: tuple[str, dict[str, dict], str]) -> None:
    _, frames, stderr = measured
    assert "CONSOLE" not in stderr, [line for line in stderr.splitlines() if "CONSOLE" in line]
    assert {name: frame["loaded"] for name, frame in frames.items() if frame["loaded"]} == {}


def test_colours_follow_the_scheme(measured: tuple[str, dict[str, dict], str]) -> None:
    scheme, frames, _ = measured
    for frame in frames.values():
        background, text = (
            sum(map(int, re.findall(r"\d+", frame[key])[:3])) for key in ("background", "color")
        )
        assert (background > 600 and text < 150) if scheme == "light" else (background < 150 and text > 600)


def test_the_script_turns_titles_into_tooltips(measured: tuple[str, dict[str, dict], str]) -> None:
    _, frames, _ = measured
    assert frames["one 360"]["tip"] == "patch_embed\nssf, 384 parameters"
    assert all(frame["titles"] == 0 for frame in frames.values())


def test_text_is_large_enough_to_read(measured: tuple[str, dict[str, dict], str]) -> None:
    _, frames, _ = measured
    assert {name: frame["small"] for name, frame in frames.items() if frame["small"]} == {}


def test_printing_opens_every_run(reports: Path) -> None:
    pdf = reports / "pair.pdf"
    chromium(
        reports / "profile-print",
        "--no-pdf-header-footer",
        f"--print-to-pdf={pdf}",
        (reports / "pair.html").as_uri(),
    )
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert pages >= 8, "the comparison takes about three pages, each opened run four or more"

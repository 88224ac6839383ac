"""The page of a comparison of methods in a real browser: sorting, focus, a narrow screen, dark mode."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from vitune.report import write_methods_report

from .fake_comparison import failed_method, make_comparison
from .test_browser import CHROMIUM, chromium

MEASURING = Path(__file__).with_name("measuring_methods.html")


@pytest.fixture(scope="module", params=["light", "dark"])
def measured(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[str, dict, str]:
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine: install it to look at the report in a browser")
    root = tmp_path_factory.mktemp("methods")
    path = make_comparison(root / "comparison.json", best="full", more=[failed_method()])
    write_methods_report(path, root / "methods.html")
    frames = "".join(
        f'<iframe name="{width}" src="methods.html" style="width:{width}px;height:900px"></iframe>'
        for width in (360, 1280)
    )
    (root / "wrapper.html").write_text(MEASURING.read_text().replace("FRAMES", frames))
    scheme = "1" if request.param == "light" else "0"
    done = chromium(
        root / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1400,900",
        "--dump-dom",
        (root / "wrapper.html").as_uri(),
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return request.param, json.loads(unescape(found.group(1))), done.stderr


def test_no_sideways_scrolling_no_message_nothing_loaded(measured: tuple[str, dict, str]) -> None:
    _, frames, stderr = measured
    assert set(frames) == {"360", "1280"}
    for name, frame in frames.items():
        assert (frame["scroll"] <= frame["width"], frame["wide"], frame["loaded"]) == (True, [], []), name
    assert "CONSOLE" not in stderr, [line for line in stderr.splitlines() if "CONSOLE" in line]


def test_headings_sort_by_number_and_leave_what_is_missing_below(measured: tuple[str, dict, str]) -> None:
    for frame in measured[1].values():
        order = frame["sorted"]
        assert order["up"] == [["full", "linear", "lora(rank=4)", "ssf", "velora"], 1, "ascending"]
        assert order["accuracy"] == [["full", "ssf", "lora(rank=4)", "linear", "velora"], 1, "descending"]
        assert order["again"] == [["linear", "lora(rank=4)", "ssf", "full", "velora"], 1, "ascending"]
        assert order["saved"] == [["linear", "lora(rank=4)", "full", "ssf", "velora"], 1, "ascending"]


def test_a_focused_point_tells_its_settings(measured: tuple[str, dict, str]) -> None:
    for frame in measured[1].values():
        assert frame["tip"] == "full\n92.1\u00a0%\n5.4M\nlearning rate 0.001"
        assert frame["spots"] == 5 * 4


def test_a_method_opens_on_its_curves_and_candidates(measured: tuple[str, dict, str]) -> None:
    for frame in measured[1].values():
        tried, up, best = frame["tried"]
        assert sorted(tried, key=float) == up == ["0.0333333", "0.1", "0.3"]
        assert best == ["0.1", "0.0333333", "0.3"], "sorted by accuracy, the highest first"
        assert frame["curves"] == 3 + 3
        assert frame["hovered"] == "epoch 1\nseed 0 72.2\u00a0%\nseed 1 72.4\u00a0%\nseed 2 72.6\u00a0%"
        assert frame["left"] is True


def test_colours_follow_the_scheme(measured: tuple[str, dict, str]) -> None:
    scheme, frames, _ = measured
    for frame in frames.values():
        background, text = (
            sum(map(int, re.findall(r"\d+", frame[key])[:3])) for key in ("background", "color")
        )
        assert (background > 600 and text < 350) if scheme == "light" else (background < 150 and text > 400)

import json
import re
from html import unescape
from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.report import write_methods_report
from vitune.report.fields import read_object
from vitune.report.methods_page import methods_page

from .fake_comparison import failed_method, make_comparison


def test_the_table(tmp_path: Path) -> None:
    page = methods_page(read_object(make_comparison(tmp_path / "c.json", best="full")))
    linear, lora = page.rows[:2]
    assert (linear.accuracy.words, linear.interval) == ("84.2\u00a0%", "83.6 to 84.8\u00a0%")
    assert (linear.baseline, linear.difference.words) == (True, "-")
    assert (lora.difference.words, lora.clear) == ("+6.3 (+5.9 to +6.7)", True)
    assert [cost.words for cost in lora.costs] == ["94k", "178 MB", "238 MB", "41 s", "378 kB"]
    assert (lora.rank.words, lora.lr.words, lora.lr.value) == ("3", "0.1", "0.1")
    assert [row.best for row in page.rows] == [False, False, False, True]
    assert page.verdict.startswith("full is best: its paired difference to the runner-up is above 0")
    assert page.seeds == ("0", "1", "2")
    assert lora.seeds == ("90.3\u00a0%", "90.5\u00a0%", "90.7\u00a0%")


def test_nothing_is_called_best_unless_the_comparison_says_so(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "c.json")
    page = methods_page(read_object(path))
    assert page.verdict.startswith("No method is marked as best")
    assert '<span class="badge">' not in write_methods_report(path, tmp_path / "r.html").read_text()


def test_charts_mark_the_pareto_front_and_tell_settings(tmp_path: Path) -> None:
    page = methods_page(read_object(make_comparison(tmp_path / "c.json")))
    assert [chart.title for chart in page.scatters] == [
        "Accuracy against trained parameters",
        "Accuracy against saved activations",
        "Accuracy against peak memory (forecast)",
        "Accuracy against training time",
        "Accuracy against bytes on disk",
    ]
    by_parameters, by_activations = (
        {dot.label: dot.on_front for dot in chart.dots} for chart in page.scatters[:2]
    )
    assert all(by_parameters.values())
    assert by_activations == {"linear": True, "lora(rank=4)": True, "ssf": False, "full": True}
    assert any("learning rate 0.1" in dot.tip for dot in page.scatters[0].dots)


def test_failures_are_shown_and_escaped(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "c.json", more=[failed_method()])
    page = methods_page(read_object(path))
    (failure,) = page.failures
    assert failure.trial == "velora, choosing, learning rate 0.001"
    assert page.rows[-1].accuracy.words == "failed"
    text = write_methods_report(path, tmp_path / "r.html").read_text()
    assert "not run: every candidate failed" in text
    assert "<b>with a tag</b>" not in text
    assert "&lt;b&gt;with a tag" in text


def test_the_page_says_how_to_make_it_again(tmp_path: Path) -> None:
    path = make_comparison(tmp_path / "c.json")
    text = unescape(write_methods_report(path, tmp_path / "r.html").read_text())
    assert json.loads(path.read_text())["command"] in text
    assert "<h1><bdi>4 methods on flowers</bdi></h1>" in text
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", text), "nothing is loaded"


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"format": 7}')
    with pytest.raises(RunError, match="has format 7, but this version of vitune reads format 1"):
        write_methods_report(path, tmp_path / "r.html")

"""The drill-down of a method: what was tried, what was chosen, curves, failures."""

from pathlib import Path
from typing import Any

from vitune.report import write_methods_report
from vitune.report.fields import Fields, read_object
from vitune.report.method_details import MOST_LINES, method_details
from vitune.report.methods_page import methods_page

from .fake_comparison import failed_method, make_comparison, method, searched


def details(content: dict[str, Any]) -> Any:
    return method_details(Fields(content, "c.json"), 0, 0, "90 %")


def test_a_grid_of_learning_rates() -> None:
    found = details(method("lora(rank=4)", 1))
    assert found.heads == ("learning rate",)
    assert found.chosen == (("learning rate", "0.1"),)
    assert [(row.settings[0].words, row.chosen) for row in found.candidates] == [
        ("0.0333333", False),
        ("0.1", True),
        ("0.3", False),
    ]
    assert [row.settings[0].words for row in found.seeds] == ["0", "1", "2"]
    titles = ["Validation accuracy", "Validation loss", "Training loss"]
    assert [chart.title for chart in found.seed_curves] == titles
    assert [line.label for line in found.seed_curves[0].lines] == ["seed 0", "seed 1", "seed 2"]
    assert [line.label for line in found.candidate_curves[0].lines][:1] == ["learning rate 0.0333333"]
    assert found.note is None


def test_a_search_over_more_than_the_rate() -> None:
    found = details(searched(method("lora(rank=4)", 1), MOST_LINES + 3))
    assert found.heads == ("method", "learning rate", "weight decay")
    assert found.chosen[0] == ("method", "lora(rank=8)")
    assert [name for name, _ in found.chosen] == ["method", "learning rate", "weight decay"]
    failed = found.candidates[1]
    assert (failed.accuracy.words, failed.accuracy.value) == ("failed", "")
    assert failed.error == "TrainingError: the loss is not finite"
    lines = [line.label for line in found.candidate_curves[0].lines]
    assert len(lines) == MOST_LINES
    assert lines[0] == "lora(rank=4), learning rate 0.004, weight decay 1e-05", "the best are drawn, in order"
    assert found.note == f"The curves are those of the {MOST_LINES} best candidates."


def test_a_comparison_that_says_nothing_of_it() -> None:
    """What version 0.1 wrote: no settings, no epochs."""
    content = method("ssf", 2)
    for entry in (*content["candidates"], *content["seeds"]):
        del entry["epochs"]
    found = details(content)
    assert (found.seed_curves, found.candidate_curves) == ((), ())
    assert found.heads == ("learning rate",)
    assert details(failed_method()).seeds == ()


def test_the_page_shows_each_method_and_a_wide_search_in_few_columns(tmp_path: Path) -> None:
    wide = searched({**method("lora(rank=4)", 1), "method": "lora"}, 12)
    path = make_comparison(tmp_path / "c.json", more=[wide, failed_method()])
    page = methods_page(read_object(path))
    assert page.is_wide
    assert [found.method for found in page.details][-2:] == ["lora", "velora"]
    text = write_methods_report(path, tmp_path / "r.html").read_text()
    assert text.count('<details class="run" id="method-') == 6
    assert "The settings that were chosen" in text
    assert "Candidate 12" not in text
    assert "No final trial was run, since every candidate failed." in text
    assert any("weight decay" in dot.tip for dot in page.scatters[0].dots if dot.label == "lora")
    narrow = methods_page(read_object(make_comparison(tmp_path / "n.json")))
    assert not narrow.is_wide

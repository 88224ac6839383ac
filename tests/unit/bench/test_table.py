import re
from pathlib import Path

import pytest

from vitune.bench import Column, TrialOutcome, TrialRunner, aggregate, markdown
from vitune.errors import ConfigError, RunError

from .fakes import trial

COLUMNS = (
    Column("test accuracy %", "metrics.test.accuracy", scale=100),
    Column("parameters", "costs.trained_parameters", digits=0),
    Column("step s", "costs.step_seconds"),
)


def finals(runner: TrialRunner) -> list[TrialOutcome]:
    trials = [trial(lr=lr, seed=seed, stage="final") for lr in (3, 1) for seed in (0, 1, 2)]
    return runner.finish([*trials, trial(lr=1, seed=3, stage="final", diverges=True)])


def test_seeds_become_one_row(runner: TrialRunner):
    rows = aggregate(finals(runner), COLUMNS)
    assert [row.trial.settings for row in rows] == [{"lr": 3}, {"lr": 1}, {"lr": 1, "diverges": True}]
    cell = rows[0].cells["test accuracy %"]
    assert cell.mean == pytest.approx(81.0)
    assert cell.low == pytest.approx(81 - 4.302652730 / 3**0.5)
    assert cell.high == pytest.approx(81 + 4.302652730 / 3**0.5)
    assert [seed for seed, _ in cell.files] == [0, 1, 2]
    assert all(path.exists() for _, path in cell.files)
    assert rows[0].cells["step s"].mean is None
    assert (rows[2].cells["test accuracy %"].mean, len(rows[2].failed)) == (None, 1)


def test_every_row_of_the_page_links_to_files_that_exist(runner: TrialRunner, tmp_path: Path):
    outcomes = finals(runner)
    page = tmp_path / "docs"
    text = markdown(aggregate(outcomes, COLUMNS), COLUMNS, page)
    lines = text.splitlines()
    assert lines[0] == "| data | model | methods | test accuracy % | parameters | step s | seeds |"
    assert lines[1] == "|---|---|---|---:|---:|---:|---|"
    assert len(lines) == 5
    assert lines[2].startswith("| digits | tiny | lora(rank=4) | 81.00 +- 2.48 | 1,234 | - | [0](")
    assert lines[4].endswith(" | - | - | - | - |")
    assert "(1 failed: [1](" in lines[4]
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) == 3 + 3 + 1
    page.mkdir()
    assert all((page / target).is_file() for target in targets)


def test_one_seed_has_no_interval(runner: TrialRunner):
    text = markdown(aggregate(finals(runner)[:1], COLUMNS), COLUMNS, runner.root)
    assert "| 80.00 | 1,234 | - | [0](" in text


def test_wrong_columns(runner: TrialRunner):
    with pytest.raises(ConfigError, match=r"every column needs its own title, got \['a', 'a'\]"):
        aggregate([], [Column("a", "x"), Column("a", "y")])
    with pytest.raises(RunError, match=r"has no number under 'trial\.model' but 'tiny'"):
        aggregate(finals(runner)[:1], [Column("a", "trial.model")])

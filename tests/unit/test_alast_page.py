"""The page of ALaST's controls: what it says follows from the tests of seeds alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.alast_accuracy import BASE, EPOCHS, OURS, PUBLISHED, ROWS, Row, page, read

from vitune.methods import parse

LONGER = next(row for row in ROWS if row.methods == OURS.methods and row.epochs > EPOCHS)


def write(folder: Path, data: str, row: Row, accuracies: Sequence[float], flops: float = 1.0) -> None:
    for seed, accuracy in enumerate(accuracies):
        result = {
            "trial": {
                "data": data,
                "methods": row.methods,
                "seed": seed,
                "settings": {"epochs": row.epochs, "lr": 0.001},
            },
            "metrics": {
                "val": None,
                "test": {"accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "n": 100},
            },
            "training_flops": flops,
            "train_seconds": 10.0 * flops,
            "lr": 0.001,
            "test_correct": None,
        }
        (folder / f"{data}-{len(list(folder.iterdir()))}.json").write_text(json.dumps(result))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Ours above ALaST on one set and open on the other; the longer run of ours is a row of its own."""
    write(tmp_path, "a", BASE, (0.50, 0.51, 0.49))
    write(tmp_path, "a", PUBLISHED, (0.40, 0.41, 0.39), 0.5)
    write(tmp_path, "a", OURS, (0.60, 0.612, 0.59), 0.4)
    write(tmp_path, "a", LONGER, (0.70, 0.71, 0.69), 0.8)
    write(tmp_path, "b", BASE, (0.50, 0.51, 0.49))
    write(tmp_path, "b", PUBLISHED, (0.50, 0.60, 0.55), 0.5)
    write(tmp_path, "b", OURS, (0.60, 0.55, 0.56), 0.4)
    return page(read(tmp_path))


def test_rows_hold_means_differences_and_costs(text):
    first, second = text.split("## b")
    assert "| full fine-tuning | 50.0 +- 2.5 (3) |  | 1.00 | 1.00 | 0.001 |" in first
    assert "| ALaST as published | 40.0 +- 2.5 (3) | -10.0 | 0.50 | 0.50 | 0.001 |" in first
    assert f"| {OURS.label} | 60.1 +- 2.7 (3) | +10.1 [+9.8, +10.4] | 0.40 | 0.40 | 0.001 |" in first
    assert f"| {LONGER.label} | 70.0 +- 2.5 (3) |" in first
    assert LONGER.label not in second
    assert "## Verdict" in second


def test_the_verdict_says_where_intervals_separate(text):
    verdict = text.split("## Verdict")[1]
    assert (
        "against ALaST as published (matched control): above on a (+20.1 [+19.8, +20.4]), open on b (+"
        in verdict
    )
    assert "against full fine-tuning (for comparison): above on a (+10.1 [+9.8, +10.4])" in verdict
    assert "twice the epochs" not in verdict
    assert "above in 1 of 2 comparisons, below in 0; 1 are open." in " ".join(verdict.split())


def test_rows_are_distinct_and_their_methods_exist():
    assert len({(row.methods, row.epochs) for row in ROWS}) == len(ROWS)
    assert len({len(row.rates) for row in ROWS}) == 1  # equal search
    assert sum(row.matched for row in ROWS) >= 5
    for row in ROWS:
        parse(row.methods)

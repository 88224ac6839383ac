"""The arithmetic of the PVP benchmark; the benchmark itself is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.pvp import length
from benchmarks.pvp_table import page, rows

from vitune.bench import Trial, TrialOutcome


def outcome(seed: int, start: str | None, accuracy: float, shots: int = 1) -> TrialOutcome:
    settings = {"shots": shots, **({} if start is None else {"init_modules": start})}
    trial = Trial(
        data="pacs",
        model="m",
        methods="lora",
        settings=settings,
        seed=seed,
        protocol="p",
        stage="final",
    )
    return TrialOutcome(trial, Path("x"), {"metrics": {"test": {"accuracy": accuracy}}}, None)


def test_starts_are_paired_by_seed() -> None:
    outcomes = [outcome(1, "lora-all", 0.6), outcome(0, None, 0.3), outcome(0, "lora-all", 0.5)]
    outcomes += [outcome(1, None, 0.4), outcome(2, None, 0.9), outcome(0, None, 0.1, shots=2)]
    outcomes += [outcome(0, "lora-all", 0.3, shots=2)]
    one, two = rows(outcomes)
    assert (one.shots, one.usual, one.pretrained) == (1, (0.3, 0.4), (0.5, 0.6))  # seed 2 has one start only
    assert one.difference == pytest.approx(0.2)
    assert (two.difference, two.low) == (pytest.approx(0.2), None)


def test_the_page_says_gains_with_intervals() -> None:
    made = rows([outcome(s, start, a) for s in (0, 1) for start, a in ((None, 0.5), ("m", 0.6 + 0.02 * s))])
    text = page(
        {
            "backbone": {"name": "b", "weights_sha256": "0" * 64},
            "rows": [vars(row) for row in made],
            "data": {"pacs": {"classes": 7, "test": 560}},
            "modules_of": {"pacs": "all"},
            "learning_rates": {"lora usual": 0.003},
            "modules": [{"host": "lora", "classes": "all", "accuracy": 0.25}],
            "machine": {"cores": 2},
            "versions": {"torch": "2"},
        }
    )
    assert "| lora | 1 | 50.0 | 61.0 | +11.0 (-1.7 to +23.7) |" in text
    assert "| mean | 1 | 50.0 | 61.0 | +11.0 (-1.7 to +23.7) |" in text
    assert "7 classes, 560 test images" in text


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(7, 7, 30), (44, 32, 15), (352, 32, 3), (4000, 32, 1)]
)
def test_every_trial_has_about_the_same_steps(images: int, batch: int, epochs: int) -> None:
    found = length(images, 30)
    assert (found["batch_size"], found["epochs"]) == (batch, epochs)

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from vitune.bench import Trial, TrialOutcome
from vitune.cli.compare_view import CompareView, seconds_left
from vitune.training import Event


def trial(seed: int) -> Trial:
    return Trial(
        data="d",
        model="m",
        methods="lora(rank=4)",
        settings={"lr": 0.01},
        seed=seed,
        protocol="p",
        stage="final",
    )


def ended(seed: int, error: str | None = None) -> TrialOutcome:
    if error is not None:
        return TrialOutcome(trial(seed), Path("error.json"), None, {"type": "E", "message": error})
    metrics = {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.75}}
    return TrialOutcome(trial(seed), Path("result.json"), {"metrics": metrics}, None)


def shown(*, terminal: bool) -> str:
    text = io.StringIO()
    with CompareView(Console(file=text, force_terminal=terminal, width=160, highlight=False), 4) as view:
        view.outcome(ended(0))  # another process's
        view.event(trial(1), Event("plan"))
        view.event(trial(1), Event("progress", {"step": 5, "steps": 10, "seconds_left": 42.0}))
        view.outcome(ended(1))
        view.event(trial(2), Event("plan"))
        view.outcome(ended(2, "the loss is\nnot finite"))
    return text.getvalue()


def test_a_terminal_shows_the_whole_and_the_current_trial_with_their_time_left() -> None:
    text = shown(terminal=True)
    assert "all trials" in text
    assert "3/4  1 failed  ETA " in text
    assert "this trial" in text
    assert "lora(rank=4)  seed 2  lr 0.01" in text
    assert "failed: lora(rank=4)  seed 2  lr 0.01: the loss is not finite" in text


def test_elsewhere_there_is_a_line_for_each_trial_that_this_process_ran() -> None:
    first, own, failed = shown(terminal=False).splitlines()
    assert first == "4 trials"
    assert own.startswith("2/4  lora(rank=4)  seed 1  lr 0.01  test 75.0\u00a0%  ETA ")
    assert failed == "failed: lora(rank=4)  seed 2  lr 0.01: the loss is not finite"


@pytest.mark.parametrize(
    ("done", "left", "elapsed", "seconds"), [(2.5, 5, 10, 20), (0, 5, 10, None), (3, 0, 10, None)]
)
def test_time_left_goes_by_the_trials_of_this_command(
    done: float, left: float, elapsed: float, seconds: float | None
) -> None:
    assert seconds_left(done, left, elapsed) == seconds

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from vitune.cli.training_view import PLAIN_EPOCH_LINES, TrainingView
from vitune.training import Event

CURSOR_SHOWN, CURSOR_HIDDEN = "\x1b[?25h", "\x1b[?25l"
START = {
    "epochs": 100,
    "steps": 1000,
    "lr": 1e-3,
    "device": "cpu",
    "precision": "bf16",
    "feature_cache": False,
}


def progress(step: int) -> Event:
    values = {"step": step, "steps": 1000, "epoch": 1, "epochs": 100, "images_per_second": 123.4}
    return Event("progress", {**values, "data_wait_share": 0.25, "seconds_left": 65.0})


def epoch(number: int, **changes: Any) -> Event:
    values = {"epoch": number, "train_loss": 0.5, "val_accuracy": 0.875, "images_per_second": 123.4}
    return Event("epoch", {**values, "data_wait_share": 0.25, **changes})


def shown(events: list[Event], *, terminal: bool, **options: Any) -> str:
    text = io.StringIO()
    with TrainingView(
        Console(file=text, force_terminal=terminal, width=100, highlight=False), **options
    ) as view:
        for event in events:
            view(event)
    return text.getvalue()


def test_plain_lines_are_few() -> None:
    text = shown([Event("start", START), *(epoch(number) for number in range(1, 101))], terminal=False)
    lines = [line for line in text.splitlines() if line.startswith("epoch")]
    assert len(lines) == PLAIN_EPOCH_LINES + 1
    assert lines[0].startswith("epoch   1/100  loss 0.5000  val 87.5")
    assert lines[-1].startswith("epoch 100/100")
    assert "123 images/s  data wait 25 %" in lines[0]


def test_plain_steps_are_told_of_when_an_epoch_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("vitune.cli.training_view.time.monotonic", lambda: now[0])
    text = io.StringIO()
    view = TrainingView(Console(file=text, width=100))
    for step in range(1, 7):
        now[0] += 25
        view(progress(step))
    assert text.getvalue().splitlines() == [
        "step 3/1000  123 images/s  data wait 25 %  ETA 1 min 05 s",
        "step 6/1000  123 images/s  data wait 25 %  ETA 1 min 05 s",
    ]


def test_terminal_has_a_live_bar_and_every_epoch() -> None:
    events = [Event("start", START), *(event for n in range(1, 4) for event in (progress(n), epoch(n)))]
    text = shown(events, terminal=True)
    assert "3/1000" in text
    assert "ETA 1 min 05 s" in text
    assert all(f"epoch   {n}/100" in text for n in range(1, 4))
    assert text.rindex(CURSOR_SHOWN) > text.rindex(CURSOR_HIDDEN)


def test_no_validation_no_accuracy() -> None:
    assert "val" not in shown([Event("start", START), epoch(1, val_accuracy=None)], terminal=False)


def test_warnings_stages_and_names() -> None:
    events = [
        Event("warning", {"message": "The setting x has no effect."}),
        Event("stage", {"stage": 1, "step": 40}),
    ]
    text = shown([*events, epoch(1)], terminal=False, name="lora", show_plan=False)
    assert text.splitlines()[:2] == ["note: The setting x has no effect.", "lora stage 2 begins at step 40"]
    assert text.splitlines()[2].startswith("lora epoch 1/1")


def test_brackets_in_names_are_no_markup() -> None:
    text = io.StringIO()
    from vitune.cli.console import console

    out = console()
    out.file = text
    out.print("data [bold]x[/bold] :smile:")
    assert text.getvalue() == "data [bold]x[/bold] :smile:\n"

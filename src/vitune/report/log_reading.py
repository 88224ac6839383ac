"""Read `log.jsonl`: one JSON object a line, of which the last may be cut short by a killed process."""

from __future__ import annotations

import json
from pathlib import Path

from vitune.errors import RunError
from vitune.report.fields import Fields
from vitune.report.record import Epoch, Log, Step


def read_log(path: Path) -> tuple[Log, str | None]:
    """Read the log of a run.

    Args:
        path: The log file; must exist.

    Returns:
        The log, and a sentence about its incomplete last line, if it has one.

    Raises:
        RunError: If the file cannot be read, a line before the last is no JSON object, or a value is of a
            wrong type.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; check the file's permissions.") from None
    note: str | None = None
    epochs: dict[int, Epoch] = {}
    steps: dict[int, Step] = {}
    warnings: list[str] = []
    seconds: float | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = _parse(path, number, line)
        if fields is None:
            if number < len(lines):
                raise RunError(
                    f"{path}: line {number} is not a JSON object; remove the line or make the run again."
                )
            note = "The last line of log.jsonl is incomplete and was left out."
            continue
        event = fields.text("event")
        if event == "epoch" and (epoch := _epoch(fields)) is not None:
            epochs[epoch.epoch] = epoch
        elif event == "step" and (step := fields.integer("step")) is not None:
            steps[step] = Step(step, fields.number("loss"), fields.number("lr"), fields.values)
        elif event == "warning" and (message := fields.text("message")):
            warnings.append(message)
        elif event == "final":
            seconds = fields.number("seconds")
    ordered = tuple(epochs[key] for key in sorted(epochs))
    if seconds is None and ordered and all(epoch.seconds is not None for epoch in ordered):
        seconds = sum(epoch.seconds or 0.0 for epoch in ordered)
    return Log(ordered, tuple(steps[key] for key in sorted(steps)), tuple(warnings), seconds), note


def _parse(path: Path, number: int, line: str) -> Fields | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return Fields(values, f"{path}: line {number}") if isinstance(values, dict) else None


def _epoch(fields: Fields) -> Epoch | None:
    number = fields.integer("epoch")
    if number is None:
        return None
    return Epoch(
        epoch=number,
        step=fields.integer("step"),
        lr=fields.number("lr"),
        train_loss=fields.number("train_loss"),
        val_loss=fields.number("val_loss"),
        val_accuracy=fields.share("val_accuracy"),
        seconds=fields.number("seconds"),
    )

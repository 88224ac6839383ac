"""Running `train` and `resume`, and printing what came of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitune.cli.console import accuracy_text, console
from vitune.cli.stopped import Stopped
from vitune.cli.training_view import TrainingView
from vitune.recipes import load_recipe
from vitune.report.units import count, size
from vitune.tasks.classification import RunResult, TrainRequest, resume, train
from vitune.tasks.run_directory import REPORT_FILE


def train_and_show(request: TrainRequest, words: Sequence[str], recipe: str | None = None) -> None:
    """Train and print the result.

    Args:
        request: What to train.
        words: The command line, for the record.
        recipe: Name of the recipe that the request follows.

    Raises:
        VituneError: As `vitune.tasks.classification.train`.
        Stopped: If Ctrl-C ended it.
    """
    request = replace(request, command=shlex.join(words))
    if recipe is not None:
        found = load_recipe(recipe)
        console().print(f"recipe {found.name}, published with {found.backbone}: {found.source}")
    _show(lambda view: train(request, on_event=view))


def resume_and_show(directory: Path) -> None:
    """Go on with a run and print the result.

    Args:
        directory: The run directory.

    Raises:
        VituneError: As `vitune.tasks.classification.resume`.
        Stopped: If Ctrl-C ended it again.
    """
    _show(lambda view: resume(directory, on_event=view))


def _show(work: Callable[[TrainingView], RunResult]) -> None:
    out = console()
    view = TrainingView(out)
    try:
        with view:
            result = work(view)
    except KeyboardInterrupt:
        if view.directory is None:
            raise Stopped("stopped before anything was written.") from None
        again = f"vitune train --resume {shlex.quote(view.directory)}"
        raise Stopped(f"stopped at once; go on from the last checkpoint with: {again}") from None
    if result.status == "interrupted":
        raise Stopped(f"stopped, and saved; go on with: {result.next_commands[0]}")
    out.print(f"\n{result_text(result.result)}")
    out.print("next:")
    for command in result.next_commands:
        out.print(f"  {command}", soft_wrap=True)
    out.print(f"  open {shlex.quote(str(result.directory / REPORT_FILE))}", soft_wrap=True)


def result_text(result: dict[str, Any]) -> str:
    """The outcome of a run in a few lines.

    Args:
        result: What `result.json` holds.
    """
    lines = []
    for split, found in result["metrics"].items():
        if found is not None:
            accuracy = accuracy_text(found["accuracy"], found["low"], found["high"])
            lines.append(f"{split} accuracy {accuracy}, 95 % interval, {found['n']} images")
    if not lines:
        lines.append("no validation images, so no accuracy yet: evaluate on the test split")
    costs, epoch = result["costs"], result["best_epoch"]
    chosen = "chosen on val" if result["protocol"].startswith("val") else "the last one"
    lines.append(
        f"weights of epoch {epoch} ({chosen}); {count(costs['trained_parameters'])} parameters trained, "
        f"adapter {size(costs['adapter_bytes'])} on disk"
    )
    rounding = result.get("rounding")
    if rounding is not None:
        before = rounding["val_before"]
        lines.append(
            f"{count(rounding['weights'])} of them rounded to {rounding['bits']} bits (relative error "
            f"{rounding['relative_error']:.2g}): {size(rounding['float_bytes'])} became {size(rounding['bytes'])}"
            + ("" if before is None else f"; val accuracy before {100 * before['accuracy']:.1f} %")
        )
    return "\n".join(lines)

"""`vitune demo`: the first real result, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for data, runs and report; a new one below runs/ if not given.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the split and of training.")] = 0,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Passes over the data; 6, or what fits three minutes."),
    ] = None,
) -> None:
    """Compare a linear probe, SSF, LoRA and full fine-tuning on real handwritten digits, in three minutes."""
    from vitune.cli.console import console
    from vitune.cli.demo_view import DemoView, print_demo
    from vitune.cli.stopped import Stopped
    from vitune.tasks.demo import run_demo
    from vitune.tasks.run_directory import check_free, new_directory

    folder = out or new_directory(Path("demo"), "digits")
    check_free(folder)
    show = console()
    show.print("scikit-learn's handwritten digits: 400 to train on, 200 to choose by, 1,197 to test on")
    chosen = epochs if epochs is not None else _fitting(show)
    try:
        with DemoView(show) as views:
            result = run_demo(folder, seed=seed, epochs=chosen, on_event=views)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; what was finished is in {folder}; begin again with: vitune demo") from None
    print_demo(show, result)


def _fitting(out: Console) -> int:
    """All epochs, or fewer on a slow machine, which is said."""
    from vitune.tasks.demo import EPOCHS, fitting_epochs, seconds_per_training_image

    speed = seconds_per_training_image()
    epochs = fitting_epochs(speed)
    if epochs < EPOCHS:
        out.print(
            f"note: this machine trains {1 / speed:.0f} images/s now: {epochs} instead of {EPOCHS} epochs, "
            "to stay below three minutes (--epochs overrides it)"
        )
    return epochs

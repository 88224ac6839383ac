"""What one sees during pre-training: a line every so often, and one an epoch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vitune.report.units import percent, seconds

if TYPE_CHECKING:
    from rich.console import Console

    from vitune.training import Event

STEP_LINE_SECONDS = 30.0


class PretrainingView:
    """A listener of pre-training that prints.

    Args:
        out: Where to print.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show an event.

        Args:
            event: What happened.
        """
        values = event.values
        if event.kind == "start":
            self._out.print(f"{values['train']:,} training and {values['val']:,} validation images")
            self._out.print(f"{values['steps']:,} steps")
        elif event.kind == "epoch":
            self._print_epoch(values)
        elif event.kind == "step" and time.monotonic() - self._last_line > STEP_LINE_SECONDS:
            self._out.print(
                f"step {values['step']}/{values['steps']}  loss {values['loss']:.4f}  "
                f"{values['images_per_second']:,.0f} images/s  ETA {seconds(values['seconds_left'])}"
            )
            self._last_line = time.monotonic()

    def _print_epoch(self, values: dict[str, Any]) -> None:
        accuracy, so_far = percent(values["val_accuracy"]), seconds(values["seconds"])
        self._out.print(
            f"epoch {values['epoch']}  loss {values['train_loss']:.4f}  val {accuracy}  "
            f"{values['images_per_second']:,.0f} images/s  {so_far} so far"
        )
        self._last_line = time.monotonic()

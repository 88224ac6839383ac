"""What one sees of the demo: the lines of each run, and the table at the end."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING

from vitune.cli.console import accuracy_text, table
from vitune.cli.training_view import TrainingView
from vitune.report.units import seconds, size

if TYPE_CHECKING:
    from rich.console import Console

    from vitune.tasks.demo import DemoResult
    from vitune.training import Event


class DemoView:
    """A listener of several runs: a view for each, made at its first event and closed when the next begins.

    Args:
        out: Where to print.
    """

    def __init__(self, out: Console) -> None:
        self._out, self._method = out, ""
        self._open = ExitStack()
        self._view: TrainingView | None = None

    def __enter__(self) -> DemoView:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __call__(self, method: str, event: Event) -> None:
        """Show an event of a run.

        Args:
            method: Whose run it is.
            event: What happened.
        """
        if self._view is None or method != self._method:
            self._open.close()
            self._method = method
            self._view = self._open.enter_context(
                TrainingView(self._out, name=f"{method:<6}", show_plan=False)
            )
        self._view(event)


def print_demo(out: Console, result: DemoResult) -> None:
    """Print the table of the runs, and what to try next.

    Args:
        out: Where to print.
        result: What the demo found.
    """
    numbers = ("trains", "on disk", "activations", "time")
    made = table("method", "test accuracy (95 %)", *numbers, right=numbers, whole=("method",))
    for run in result.runs:
        found, costs = run.result["metrics"]["test"], run.result["costs"]
        made.add_row(
            run.result["method"],
            accuracy_text(found["accuracy"], found["low"], found["high"]),
            f"{costs['trained_parameters']:,}",
            size(costs["adapter_bytes"]),
            size(costs["saved_activation_bytes"]),
            seconds(run.seconds),
        )
    out.print(made)
    out.print(
        "'trains' counts parameters, the head's included; 'activations' is what a training step keeps in memory "
        "for its gradient."
    )
    out.print("next:")
    folder, data = shlex.quote(str(result.report.parent / "ssf")), shlex.quote(str(result.data))
    for command in (
        f"open {shlex.quote(str(result.report))}",
        f"vitune evaluate {folder} {data}",
        f"vitune predict {folder} {data}/test/3 --top-k 2",
        f"vitune merge {folder} -o digits.safetensors",
    ):
        out.print(f"  {command}", soft_wrap=True)

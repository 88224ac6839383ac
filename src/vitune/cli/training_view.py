"""What one sees while a run trains: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vitune.cli.console import print_indented
from vitune.report.units import percent, seconds, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from vitune.training import Event

PLAIN_EPOCH_LINES = 20
PLAIN_STEP_SECONDS = 60.0


class TrainingView:
    """A listener of training that prints; also a context, which ends the live bar.

    Args:
        out: Where to print.
        name: Word before each epoch line, where several runs follow each other.
        show_plan: Whether to print what trains before it starts.

    Attributes:
        directory: The run directory, once the run has one.
    """

    def __init__(self, out: Console, *, name: str = "", show_plan: bool = True) -> None:
        self.directory: str | None = None
        self._out, self._name, self._show_plan = out, f"{name} " if name else "", show_plan
        self._bar: Progress | None = None
        self._left = 0.0
        self._epochs = 1
        self._last_line = time.monotonic()

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show an event.

        Args:
            event: What happened.
        """
        show = getattr(self, f"_on_{event.kind}", None)
        if show is not None:
            show(event.values)

    def _on_plan(self, values: dict[str, Any]) -> None:
        self.directory = values["directory"]
        if self._show_plan:
            print_plan(self._out, values)

    def _on_start(self, values: dict[str, Any]) -> None:
        self._epochs = values["epochs"]
        if self._show_plan:
            precision = "fp32" if values["precision"] == "no" else values["precision"]
            cached = ", on features computed once" if values["feature_cache"] else ""
            self._out.print(
                f"training {values['steps']} steps with learning rate {values['lr']:g} on {values['device']} "
                f"in {precision}{cached}"
            )

    def _on_warning(self, values: dict[str, Any]) -> None:
        self._out.print(f"note: {values['message']}")

    def _on_stage(self, values: dict[str, Any]) -> None:
        self._out.print(f"{self._name}stage {values['stage'] + 1} begins at step {values['step']}")

    def _on_progress(self, values: dict[str, Any]) -> None:
        self._left = values["seconds_left"]
        self._epochs = values["epochs"]
        if self._out.is_terminal:
            self._move_bar(values)
        elif time.monotonic() - self._last_line > PLAIN_STEP_SECONDS:
            self._last_line = time.monotonic()
            step = f"step {values['step']}/{values['steps']}"
            self._out.print(f"{self._name}{step}  {_rate(values)}  {_eta(self._left)}")

    def _on_epoch(self, values: dict[str, Any]) -> None:
        epoch, every = values["epoch"], -(-self._epochs // PLAIN_EPOCH_LINES)
        if not self._out.is_terminal and epoch % every and epoch not in (1, self._epochs):
            return
        self._last_line = time.monotonic()
        width = len(str(self._epochs))
        accuracy = "" if values["val_accuracy"] is None else f"  val {percent(values['val_accuracy'])}"
        left = "" if not self._left or self._out.is_terminal else f"  {_eta(self._left)}"
        self._out.print(
            f"{self._name}epoch {epoch:>{width}}/{self._epochs}  loss {values['train_loss']:.4f}{accuracy}  "
            f"{_rate(values)}{left}"
        )

    def _move_bar(self, values: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = _make_bar(self._out, self._name)
            self._bar.add_task("", total=values["steps"])
        (task,) = self._bar.task_ids
        news = f"{_rate(values)}  {_eta(self._left)}"
        self._bar.update(task, completed=values["step"], total=values["steps"], news=news)
        self._bar.start()
        if values["step"] >= values["steps"]:  # what follows has no steps; another stage gets another bar
            self._bar.stop()
            self._bar = None


def print_plan(out: Console, values: dict[str, Any]) -> None:
    """Print what trains, on what data, and the forecast of memory in four parts.

    Args:
        out: Where to print.
        values: Of the "plan" event.
    """
    memory, sizes = values["memory_forecast_bytes"], values["sizes"]
    images = ", ".join(f"{sizes[split]:,} {split}" for split in ("train", "val", "test") if sizes.get(split))
    parts = " + ".join(f"{name.replace('_', ' ')} {size(part)}" for name, part in memory.items())
    full = size(values["full_finetuning"]["saved_activation_bytes"])
    heading, *lines = values["summary"].splitlines()
    out.print(heading)
    for line in (
        *(line.strip() for line in lines),
        f"data: {images} images of {values['classes']} classes",
        f"memory forecast at batch {values['batch_size']}: {size(sum(memory.values()))} = {parts} "
        f"(full fine-tuning saves {full} of activations)",
        f"run: {values['directory']}",
    ):
        print_indented(out, line)


def _rate(values: dict[str, Any]) -> str:
    rate, wait = values["images_per_second"], values["data_wait_share"]
    return f"{rate:,.0f} images/s  data wait {100 * wait:.0f} %"


def _eta(seconds_left: float) -> str:
    return f"ETA {seconds(float(max(1, round(seconds_left))))}"


def _make_bar(out: Console, name: str) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn(f"{name}{{task.completed}}/{{task.total}}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[news]}", markup=False),
        console=out,
        transient=True,
    )

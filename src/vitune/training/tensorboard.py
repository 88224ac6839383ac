"""Curves for TensorBoard, beside the log (needs the extra `tensorboard`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitune._extras import require
from vitune.training.events import Event

_CURVES = {
    "step": {"loss": "train/loss", "lr": "train/lr"},
    "epoch": {"train_loss": "epoch/train_loss", "val_loss": "val/loss", "val_accuracy": "val/accuracy"},
}


class TensorBoard:
    """A listener that writes the lines of the log as curves.

    Args:
        directory: Where TensorBoard's files go.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        require("tensorboard", "tensorboard", "Writing TensorBoard files")
        self._directory = directory
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Write what an event has to tell.

        Args:
            event: What happened.
        """
        if event.kind == "start":
            from torch.utils.tensorboard import SummaryWriter  # imports tensorboard, which is optional

            # What was written after the checkpoint that a run resumes from is taken back.
            resumed = event.values.get("resumed_step")
            self._writer = SummaryWriter(self._directory, purge_step=None if resumed is None else resumed + 1)
        for key, curve in _CURVES.get(event.kind, {}).items():
            if event.values[key] is not None:
                self._writer.add_scalar(curve, event.values[key], event.values["step"])

    def close(self) -> None:
        """Write what is left and close the files."""
        if self._writer is not None:
            self._writer.close()

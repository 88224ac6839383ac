"""What training writes into a run directory."""

from __future__ import annotations

from pathlib import Path

from vitune.errors import RunError
from vitune.training.checkpoint import Checkpoint, load_checkpoint

CHECKPOINT_FOLDER = "checkpoint"
LOG_FILE = "log.jsonl"


def find_checkpoint(directory: Path | None, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None to begin.

    Args:
        directory: The run directory, if there is one.
        resume: Whether a run that is there is to be gone on with.

    Raises:
        RunError: If there is a checkpoint but the run is not to be resumed, or it cannot be read.
    """
    if directory is None:
        return None
    checkpoint = load_checkpoint(directory / CHECKPOINT_FOLDER)
    if checkpoint is not None and not resume:
        raise RunError(f"The folder {directory} holds a run already; resume it, or choose another folder.")
    return checkpoint

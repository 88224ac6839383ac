"""Training: settings, the loop, evaluation and checkpoints.

The names below are imported when first used: the settings alone need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Evaluation": "vitune.training.evaluate",
    "Event": "vitune.training.events",
    "FitData": "vitune.training.data",
    "FitResult": "vitune.training.result",
    "OnEvent": "vitune.training.events",
    "TrainConfig": "vitune.training.config",
    "fit": "vitune.training.loop",
    "load_checkpoint": "vitune.training.checkpoint",
    "make_accelerator": "vitune.training.devices",
    "save_checkpoint": "vitune.training.checkpoint",
}
__all__ = ["Evaluation", "Event", "FitData", "FitResult", "OnEvent", "TrainConfig", "fit"]
__all__ += ["load_checkpoint", "make_accelerator", "save_checkpoint"]

if TYPE_CHECKING:
    from vitune.training.checkpoint import load_checkpoint as load_checkpoint
    from vitune.training.checkpoint import save_checkpoint as save_checkpoint
    from vitune.training.config import TrainConfig as TrainConfig
    from vitune.training.data import FitData as FitData
    from vitune.training.devices import make_accelerator as make_accelerator
    from vitune.training.evaluate import Evaluation as Evaluation
    from vitune.training.events import Event as Event
    from vitune.training.events import OnEvent as OnEvent
    from vitune.training.loop import fit as fit
    from vitune.training.result import FitResult as FitResult


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vitune.training' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)

"""The card of a pre-training run: what was trained, on what, how, and how well, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

import vitune
from vitune.training.pretrain_model import WEIGHTS_FILE

if TYPE_CHECKING:
    from vitune.training.pretrain_loop import Pretraining

CARD_FILE = "card.json"
FORMAT = 1


def run_card(run: Pretraining, history: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The card of a run after its last validation, to be written beside the weights.

    Args:
        run: The run.
        history: The "epoch" lines of its log.
        seconds: How long it trained.
    """
    config = run.config
    stage = {
        "command": config.command(),
        "settings": _generic(config.to_dict()),
        "log": [
            {key: line[key] for key in ("epoch", "train_loss", "val_loss", "val_accuracy")}
            for line in history
        ],
        "epochs_done": history[-1]["epoch"],
        "seconds": round(seconds),
        "device": _device_name(run.device),
        "device_type": run.device.type,
    }
    return {
        "format": FORMAT,
        "architecture": {
            "arch": config.arch,
            "model_args": {**config.model_args, "img_size": config.image_size},
        },
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "num_classes": run.num_classes,
        "class_names": list(run.class_names),
        "input": {
            "size": [3, config.image_size, config.image_size],
            "mean": list(run.augment.mean),
            "std": list(run.augment.std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
        "data": {"name": config.data.name, "train": len(run.train), "val": len(run.val)},
        "val_accuracy": history[-1]["val_accuracy"],
        "val_loss": history[-1]["val_loss"],
        "seed": config.seed,
        "sha256": hashlib.sha256((config.out / WEIGHTS_FILE).read_bytes()).hexdigest(),
        "versions": {"vitune": vitune.__version__, "torch": torch.__version__, "timm": timm.__version__},
        "stages": [*_earlier_stages(config.init_from), stage],
    }


def _earlier_stages(start: Path | None) -> list[dict[str, Any]]:
    """The stages of the run that this one started from; of a bare weight file only the hash is known."""
    if start is None:
        return []
    if (start / CARD_FILE).is_file():
        return json.loads((start / CARD_FILE).read_text(encoding="utf-8"))["stages"]
    file = start / WEIGHTS_FILE if start.is_dir() else start
    return [{"weights": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}]


def _generic(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with names in place of this machine's paths."""
    paths = ("data", "out", "init_from")
    return {
        key: Path(value).name if key in paths and value is not None else value
        for key, value in settings.items()
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"

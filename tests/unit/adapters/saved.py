from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tests.contract.cases import randomise, tune
from torch import Tensor

import vitune
from vitune.adapters import CONFIG, TENSORS
from vitune.durable import replace_file


def save_small(folder: Path, text: str = "ssf", family: str = "plain", **more: Any) -> vitune.Tuned:
    """A trained model whose adapter is written to the folder."""
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    tuned.save(folder, **more)
    return tuned


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the configuration in place."""
    path = folder / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors, and their hash with them, as somebody would who knows the format."""
    tensors = load_file(folder / TENSORS)
    change(tensors)
    replace_file(folder / TENSORS, lambda path: save_file(tensors, path))
    digest = hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()
    edit_config(folder, lambda config: config.update(tensors_sha256=digest))

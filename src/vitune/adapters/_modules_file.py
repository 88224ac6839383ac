"""The file of pre-trained modules: their tensors by role, without a head, and a JSON header in the same file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from vitune.durable import replace_file
from vitune.errors import AdapterError

HEADER = "vitune_modules"
FORMAT = 1
KEYS = ("method", "backbone", "family", "frozen_sha256", "preprocessing", "data", "accuracy", "prompt_norm")


@dataclass(frozen=True)
class Modules:
    """What a file of modules holds.

    Attributes:
        header: `method` (name and settings), `backbone` (how it was made), `family`, `frozen_sha256` (hash of the
            backbone's weights), `preprocessing` (timm data configuration), `data` (what they were trained on),
            `accuracy` (top-1 there; None if not measured), `prompt_norm` (mean norm of a prompt; None without
            prompts), `versions`.
        tensors: By role name.
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a file of modules and read it back.

    Args:
        path: The file.
        header: JSON values.
        tensors: By role name.

    Raises:
        AdapterError: If the disk refuses, or what was read back is not what was written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **header})
    data = save_tensors(contiguous, metadata={"format": "pt", HEADER: text})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        raise AdapterError(f"cannot write the modules to '{path}': {error.strerror or error}.") from error
    again = read(path).tensors
    if not all(torch.equal(again[name], tensor) for name, tensor in contiguous.items()):
        raise AdapterError(f"the modules in '{path}' are not what was written; is the disk sound?")


def read(path: Path) -> Modules:
    """Read a file of modules.

    Args:
        path: The file.

    Raises:
        AdapterError: If it is missing, damaged, something else, or of another format.
    """
    if not path.is_file():
        raise AdapterError(f"there is no file of modules '{path}'; make one with vitune pretrain-modules.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"'{path}' is not a safetensors file: {error}.") from None
    if HEADER not in metadata:
        raise AdapterError(
            f"'{path}' holds no pre-trained modules: it has no header '{HEADER}'; "
            f"name the file that vitune pretrain-modules wrote."
        )
    try:
        header = json.loads(metadata[HEADER])
    except json.JSONDecodeError as error:
        raise AdapterError(f"the header of '{path}' is not valid JSON: {error}.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise AdapterError(
            f"'{path}' has format {found!r} and this vitune reads format {FORMAT}; use the version that wrote it."
        )
    missing = [key for key in KEYS if key not in header]
    if missing:
        raise AdapterError(f"the header of '{path}' has no key '{missing[0]}', so it was changed by hand.")
    return Modules(header, tensors)

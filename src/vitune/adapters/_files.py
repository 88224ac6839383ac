"""The two files of an adapter: writing them atomically, reading them with one clear error each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vitune.durable import flush_file, replace_file
from vitune.errors import AdapterError

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
FORMAT = 1
KEYS = ("backbone", "family", "frozen_sha256", "num_classes", "policies")  # beside `methods`


def write(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files, then read them back and compare.

    Args:
        directory: Where; made if it is not there.
        config: JSON values; the format number and the hash of the tensor file are added.
        tensors: By role name.

    Raises:
        AdapterError: If the disk refuses, or what was read back is not what was written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save_tensors(contiguous, metadata={"format": "pt"})
    text = json.dumps(
        {"format": FORMAT, **config, "tensors_sha256": hashlib.sha256(data).hexdigest()}, indent=1
    )

    def write_config_then_replace_tensors(path: Path) -> None:
        # Both are on the disk before either takes the place of an older one: a full disk harms neither.
        path.write_text(text + "\n")
        flush_file(path)
        replace_file(directory / TENSORS, lambda path: path.write_bytes(data))

    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / CONFIG, write_config_then_replace_tensors)
    except OSError as error:
        raise AdapterError(
            f"cannot write the adapter to '{directory}': {error.strerror or error}."
        ) from error
    again_config, again = read(directory)
    if again_config != json.loads(text) or again.keys() != contiguous.keys():
        raise AdapterError(f"the adapter in '{directory}' is not what was written; is the disk sound?")
    for name, tensor in contiguous.items():
        if not torch.equal(_bytes(again[name]), _bytes(tensor)):
            raise AdapterError(
                f"the tensor '{name}' in '{directory}' is not what was written; is the disk sound?"
            )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files.

    Returns:
        The configuration, and the tensors by role name.

    Raises:
        AdapterError: If one is missing, damaged, of another format, or leads out of the directory.
    """
    config = read_config(directory)
    data = _inside(directory, TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != config.get("tensors_sha256"):
        raise AdapterError(
            f"'{directory / TENSORS}' is not the file that '{CONFIG}' beside it was written with "
            f"(truncated, changed, or from another run); copy both files again."
        )
    try:
        return config, load_tensors(data)
    except SafetensorError as error:
        raise AdapterError(f"'{directory / TENSORS}' is not a safetensors file: {error}.") from None


def read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration alone.

    Raises:
        AdapterError: As `read`.
    """
    path = _inside(directory, CONFIG)
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"'{path}' is not valid JSON: {error}.") from None
    if not isinstance(config, dict) or "methods" not in config:
        raise AdapterError(f"'{path}' is not a vitune adapter: it has no key 'methods' (is it PEFT's?).")
    if config.get("format") != FORMAT:
        raise AdapterError(
            f"'{path}' has format {config.get('format')!r} and this vitune reads format {FORMAT}; "
            f"use the vitune version {config.get('versions', {}).get('vitune', 'that wrote it')}."
        )
    for key in KEYS:
        if key not in config:
            raise AdapterError(f"'{path}' has no key '{key}', so it was changed by hand; copy it again.")
    return config


def _inside(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise AdapterError(f"no adapter in '{directory}': the file '{name}' is missing.")
    if path.resolve().parent not in (directory.resolve(), _cached_files(directory)):
        raise AdapterError(f"'{path}' is a link that leads out of the directory; copy the file itself there.")
    return path


def _cached_files(directory: Path) -> Path | None:
    """Where the hub's cache keeps the files that a snapshot of it links to."""
    found = directory.resolve()
    return found.parent.parent / "blobs" if found.parent.name == "snapshots" else None

"""Resumable state on disk: one folder per step, which is there completely or not at all.

```
checkpoint/step-00000048/tensors.safetensors
checkpoint/step-00000048/state.json             format, step, sha256 of the tensors, and the caller's state
```
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitune.durable import flush_file, flush_folder
from vitune.errors import RunError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

FORMAT = 1
TENSORS_FILE = "tensors.safetensors"
STATE_FILE = "state.json"
_TEMPORARY = ".tmp-"
# The revision is there for a step that is saved twice: a folder cannot be replaced in one rename.
_COMPLETE = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved at one step.

    Attributes:
        step: Number of optimizer steps done.
        tensors: The tensors by name, on the CPU.
        state: The other state, as JSON values.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, JSON]


def save_checkpoint(
    directory: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, JSON], *, keep: int = 1
) -> Path:
    """Write one checkpoint and delete the older ones once it is safely on the disk.

    Args:
        directory: The folder that holds the checkpoints; made when absent.
        step: Number of optimizer steps done.
        tensors: Tensors by name, on any device.
        state: What else is needed to go on, as JSON values.
        keep: How many checkpoints stay, this one included.

    Returns:
        The folder of this checkpoint.

    Raises:
        RunError: If it cannot be written, for instance since the disk is full; the last good one stays.
    """
    temporary = directory / f"{_TEMPORARY}step-{step:08d}-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(temporary, step, tensors, state)
        final = directory / _free_name(directory, step)
        os.replace(temporary, final)
        flush_folder(directory)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"The checkpoint of step {step} could not be written to {directory} ({_reason(error)}); "
            "the last complete one is untouched: free space there, then resume."
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _complete(directory)[:-keep]:
        if old == final:
            continue
        shutil.rmtree(old, ignore_errors=True)
    for stale in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stale, ignore_errors=True)
    return final


def load_checkpoint(directory: Path) -> Checkpoint | None:
    """Read the newest complete checkpoint.

    Args:
        directory: The folder that was given to `save_checkpoint`.

    Returns:
        The checkpoint, or None where none was completed.

    Raises:
        RunError: If it is corrupt or of another format.
    """
    complete = _complete(directory)
    if not complete:
        return None
    folder = complete[-1]
    try:
        header = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        found = header["format"]
        if found != FORMAT:
            raise RunError(
                f"The checkpoint {folder} has format {found!r}, this version of vitune reads {FORMAT}: "
                "resume it with the version that wrote it."
            )
        if _sha256(folder / TENSORS_FILE) != header["sha256"]:
            raise RunError(
                f"The checkpoint {folder} is corrupt: {TENSORS_FILE} does not have the sha256 in "
                f"{STATE_FILE}; delete that folder and start again."
            )
        tensors = load_file(folder / TENSORS_FILE)
        return Checkpoint(step=header["step"], tensors=tensors, state=header["state"])
    except (OSError, SafetensorError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise RunError(
            f"The checkpoint {folder} is corrupt ({_reason(error)}): delete that folder and start again."
        ) from error


def _write(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, JSON]) -> None:
    tensors_path, state_path = folder / TENSORS_FILE, folder / STATE_FILE
    save_file(_separate(tensors), tensors_path)
    flush_file(tensors_path)
    header = {"format": FORMAT, "step": step, "sha256": _sha256(tensors_path), "state": dict(state)}
    state_path.write_text(json.dumps(header), encoding="utf-8")
    flush_file(state_path)
    flush_folder(folder)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense CPU tensors of which no two share memory, as safetensors demands."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().to("cpu").contiguous()
        storage = dense.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != dense.numel() * dense.element_size():
            dense = dense.clone(memory_format=torch.contiguous_format)
        seen.add(dense.untyped_storage().data_ptr())
        separate[name] = dense
    return separate


def _complete(directory: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    found = [(match, path) for path in directory.iterdir() if (match := _COMPLETE.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2] or 0)))]


def _free_name(directory: Path, step: int) -> str:
    name = f"step-{step:08d}"
    taken = [path.name for path in directory.glob(f"{name}*")]
    if not taken:
        return name
    return f"{name}.{1 + max(int(other.partition('.')[2] or 0) for other in taken)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"

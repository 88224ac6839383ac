"""The files of an adapter made ready for others: checked, and without paths of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitune.adapters._files import CONFIG, TENSORS, read
from vitune.durable import replace_file
from vitune.errors import AdapterError


def copy_for_others(source: Path, target: Path) -> dict[str, Any]:
    """Copy both files of an adapter; where the backbone's record names files of this machine, their names alone stay.

    Args:
        source: The directory of an adapter, or of a run.
        target: A directory that is there.

    Returns:
        The configuration as written.

    Raises:
        AdapterError: If the adapter is missing or damaged, or the files cannot be written.
    """
    config, _ = read(source)
    backbone = config.get("backbone")
    if backbone is not None:
        settings = backbone["kwargs"]
        if "_name_or_path" in settings:
            settings = {**settings, "_name_or_path": _public(settings["_name_or_path"])}
        backbone = {
            **backbone,
            "kwargs": settings,
            "name": _public(backbone["name"]),
            "weights": _public(backbone["weights"]),
        }
    config = {**config, "backbone": backbone}
    try:
        text, data = json.dumps(config, indent=1) + "\n", (source / TENSORS).read_bytes()
        replace_file(target / TENSORS, lambda path: path.write_bytes(data))
        replace_file(target / CONFIG, lambda path: path.write_text(text))
    except OSError as error:
        raise AdapterError(f"cannot write the adapter to '{target}': {error.strerror or error}.") from error
    return config


def _public(name: str | None) -> str | None:
    return Path(name).name if name is not None and Path(name).is_absolute() else name

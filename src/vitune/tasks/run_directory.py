"""The files of a run directory."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.measure import machine, versions
from vitune.tasks.request import TrainRequest

FORMAT = 1
CONFIG_FILE = "config.json"
SPLIT_FILE = "split.json"
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.npz"
PICTURES_FILE = "pictures.json"
REPORT_FILE = "report.html"


def check_free(directory: Path) -> None:
    """Refuse a run directory that is taken.

    Args:
        directory: Where a run is to go.

    Raises:
        RunError: If there is a file of that name, or a folder with something in it.
    """
    if directory.exists() and not directory.is_dir():
        raise RunError(f"The output '{directory}' is a file; choose another folder with --out.")
    if directory.is_dir() and any(directory.iterdir()):
        resumable = (directory / CONFIG_FILE).is_file()
        hint = f", or go on with it: vitune train --resume {shlex.quote(str(directory))}" if resumable else ""
        raise RunError(f"The output folder '{directory}' is not empty; choose another with --out{hint}.")


def new_directory(data: Path, method: str) -> Path:
    """A free name below `runs/`, made of the data and the method.

    Args:
        data: Path of the data.
        method: Methods as text.
    """
    words = f"{data.resolve().stem}-{method}"
    name = re.sub(r"[^\w.=-]+", "-", words).strip("-.") or "run"
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}-{number}", number + 1
    return path


def make_directory(directory: Path) -> None:
    """Make the folder of a run.

    Args:
        directory: The folder.

    Raises:
        RunError: If it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The output folder '{directory}' cannot be made: {error.strerror}.") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON, so that the file is there completely or not at all.

    Args:
        path: The file.
        values: JSON values.

    Raises:
        RunError: If it cannot be written.
    """
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    try:
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"The file {path} cannot be written: {error.strerror}.") from None


def write_config(directory: Path, request: TrainRequest) -> None:
    """Write the resolved settings of a run, with the versions and the machine it was started with.

    Args:
        directory: The run directory.
        request: What decides the run.
    """
    header = {"format": FORMAT, "versions": versions(), "machine": machine()}
    write_json(directory / CONFIG_FILE, {**header, **request.to_dict()})


def read_config(directory: Path) -> TrainRequest:
    """Read the settings of a run.

    Args:
        directory: The run directory.

    Raises:
        RunError: If it is no run directory, or one of another version.
        ConfigError: If a setting is unknown or not allowed.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise RunError(
            f"'{directory}' is no run directory: it has no {CONFIG_FILE}; name one that train made."
        )
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else None
        raise RunError(
            f"{path} has format {found!r} and this version of vitune reads format {FORMAT}; "
            "use the version that made the run."
        )
    settings = {name: values[name] for name in values if name not in {"format", "versions", "machine"}}
    return TrainRequest.from_dict(settings, out=directory)


def read_json(path: Path) -> Any:
    """Read JSON.

    Args:
        path: The file.

    Raises:
        RunError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it, or start another run.") from None

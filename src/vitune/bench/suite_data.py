"""Where the data of a suite's tasks are, and what is missing."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.data.digits import write_digits
from vitune.data.layouts import LAYOUTS, missing
from vitune.durable import new_folder
from vitune.errors import ConfigError, DataError, did_you_mean
from vitune.suites import EvaluationSet, Task

_NAMED = 4  # tasks that an error names
# Data that need no download; each is told the folder to make.
MAKERS: Mapping[str, Callable[[Path], None]] = {"digits": lambda folder: write_digits(folder, 0)}


@dataclass(frozen=True)
class Located:
    """Where a task's data, or those of a further test set, are.

    Attributes:
        name: Of the task or the set.
        layout: How it should lie on the disk.
        path: The folder; None where there is none.
        problems: What is missing, a sentence each; empty where all is there.
        note: What will be done first, such as unpacking; empty for nothing.
    """

    name: str
    layout: str
    path: Path | None
    problems: tuple[str, ...]
    note: str = ""


def locate(task: Task | EvaluationSet, root: Path, kept: Path, *, prepare: bool) -> Located:
    """Find the data of a task, and check that nothing is missing.

    Args:
        task: The task, or a further test set.
        root: Folder of the suite's data.
        kept: Folder for what is unpacked or made.
        prepare: Whether to unpack and to make what is missing now; if not, it is only noted.

    Raises:
        ConfigError: If the suite names a layout or a maker that does not exist.
        DataError: If a tar file cannot be unpacked.
    """
    if task.layout not in LAYOUTS:
        raise ConfigError(
            f"task '{task.name}': there is no layout '{task.layout}'. {did_you_mean(task.layout, LAYOUTS)}"
        )
    path = _existing(task, root, kept)
    if path is None and isinstance(task, Task):
        if task.archive is not None and (root / task.archive).is_file():
            archive = root / task.archive
            if not prepare:
                return Located(task.name, task.layout, None, (), f"'{archive}' will be unpacked")
            path = unpack(archive, kept / task.folder[0])
        elif task.make is not None:
            if task.make not in MAKERS:
                raise ConfigError(
                    f"task '{task.name}': nothing makes '{task.make}'. {did_you_mean(task.make, MAKERS)}"
                )
            if not prepare:
                return Located(task.name, task.layout, None, (), "will be made")
            path = kept / task.folder[0]
            MAKERS[task.make](path)
    if path is None:
        folders = " or ".join(f"'{name}'" for name in (*task.folder, *_archive(task)))
        hint = f"; get it: {task.get}" if task.get else ""
        return Located(task.name, task.layout, None, (f"'{root}' has no {folders}{hint}.",))
    problems = _problems(task, path)
    if task.layout == "imagenet" and prepare and not problems:
        path = val_as_test(path, kept / f"{task.name}-val-as-test")
    return Located(task.name, task.layout, path, tuple(problems))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a tar file; the folder appears when it is complete.

    Args:
        archive: The tar file; what it holds may lie in a folder of the same name inside.
        folder: Where to put it.

    Raises:
        DataError: If the file is no tar file, or cannot be unpacked there.
    """
    try:
        with new_folder(folder) as partial, tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
            _lift(partial, folder.name)
    except tarfile.TarError:
        raise DataError(f"'{archive}' is no tar file, or a broken one; get it again.") from None
    except OSError as error:
        raise DataError(
            f"'{archive}' cannot be unpacked to '{folder}': {error}; unpack it by hand."
        ) from None
    return folder


def _lift(folder: Path, name: str) -> None:
    """Where a folder holds one of this name and no other, put what that holds in the place of all."""
    if [path.name for path in folder.iterdir() if path.is_dir()] != [name]:
        return
    for path in folder.iterdir():
        if not path.is_dir():
            path.unlink()
    inner = (folder / name).rename(folder / f".{name}")  # what it holds may have the same name
    for path in list(inner.iterdir()):
        path.rename(folder / path.name)
    inner.rmdir()


def val_as_test(folder: Path, place: Path) -> Path:
    """A folder whose `train` is that of another and whose `test` is its `val`, as links.

    ImageNet's test images have no labels, so its validation images are what is tested on, and others must choose.

    Args:
        folder: Folder of `train/` and `val/`.
        place: Folder to make; it appears when it is complete.

    Raises:
        DataError: If links cannot be made there.
    """
    try:
        with new_folder(place) as partial:
            for name, source in (("train", "train"), ("test", "val")):
                (partial / name).symlink_to((folder / source).resolve(), target_is_directory=True)
                if place.is_dir():  # of an earlier run, whose data may have lain elsewhere
                    os.replace(partial / name, place / name)
    except OSError as error:
        raise DataError(
            f"'{place}' cannot link to '{folder}': {error.strerror}; choose another --out."
        ) from None
    return place


def check_complete(found: Sequence[Located], suite: str) -> None:
    """Refuse to begin where something is missing.

    Args:
        found: All tasks and sets.
        suite: Name of the suite.

    Raises:
        DataError: If something is missing; names the tasks and the first reason.
    """
    lacking = [located for located in found if located.problems]
    if lacking:
        names = ", ".join(located.name for located in lacking[:_NAMED])
        names += f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        raise DataError(
            f"the data of {len(lacking)} of {len(found)} are not complete ({names}); the first: "
            f"{lacking[0].problems[0]} See all with 'vitune bench {suite} ... --check', or choose others with --tasks."
        )


def _existing(task: Task | EvaluationSet, root: Path, kept: Path) -> Path | None:
    return next(
        (base / name for base in (root, kept) for name in task.folder if (base / name).is_dir()), None
    )


def _problems(task: Task | EvaluationSet, path: Path) -> list[str]:
    if isinstance(task, EvaluationSet) and task.layout == "folder":  # the set as a whole, so without splits
        there = any(entry.is_dir() for entry in path.iterdir())
        return [] if there else [f"'{path}' holds no class folders."]
    return missing(task.layout, path, **_options(task))


def _archive(task: Task | EvaluationSet) -> tuple[str, ...]:
    return (task.archive,) if isinstance(task, Task) and task.archive else ()


def _options(task: Task | EvaluationSet) -> dict[str, Any]:
    """What the check of the layout is told: that of the suite, and which shots are wanted."""
    if isinstance(task, Task) and task.layout == "few-shot" and "shots" in task.data:
        return {"shots": [task.data["shots"]], "seeds": [task.data.get("shot_seed", 0)], **task.check}
    return dict(task.check)

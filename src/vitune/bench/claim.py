"""Who works on a trial: claims that several processes on several machines can race for.

A trial's folder holds `attempts/0`, `attempts/1`, ...; the highest number is the current claim. A claim is
made by renaming a finished folder to the next number, which succeeds for exactly one process, and no claim
is ever removed: so one that was judged stale cannot be confused with a fresh one that took its place.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from vitune.durable import flush_file

State = Literal["running", "stale", "released", "failed"]

# What os.rename answers where the target exists already: Linux and macOS, or Windows.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES)


class Claim:
    """A trial that this process may work on, kept alive by a thread until it ends.

    Args:
        folder: The attempt's folder, already this process's own.
        heartbeat_seconds: How often the claim is renewed.
    """

    def __init__(self, folder: Path, heartbeat_seconds: float) -> None:
        self.folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat_seconds,), daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        """How many attempts there were before this one."""
        return int(self.folder.name)

    def is_current(self) -> bool:
        """Whether nobody has taken the trial over, thinking this process dead."""
        return latest_attempt(self.folder.parent) == self.number

    def release(self) -> None:
        """Let go: if the trial has neither result nor error, others may take it at once."""
        self._ended.set()
        self._thread.join()
        (self.folder / "released").touch()

    def _beat(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            # A shared folder may be away for a moment. If it stays away, the silence itself tells the others.
            with suppress(OSError):
                os.utime(self.folder / "owner.json")


def try_claim(
    attempts: Path, *, stale_seconds: float, heartbeat_seconds: float, retry: Container[int] = ()
) -> Claim | None:
    """Claim a trial unless somebody works on it or it has failed.

    Args:
        attempts: The trial's folder of attempts; made if absent.
        stale_seconds: How old the sign of life of a process on another machine may be.
        heartbeat_seconds: How often the new claim is renewed.
        retry: Numbers of failed attempts that may be followed by a new one.

    Returns:
        The claim, or None if the trial is somebody's, has failed, or another process was quicker.
    """
    attempts.mkdir(parents=True, exist_ok=True)
    latest = latest_attempt(attempts)
    if latest is not None:
        state = attempt_state(attempts / str(latest), stale_seconds)
        if state == "running" or (state == "failed" and latest not in retry):
            return None
    target = attempts / str(0 if latest is None else latest + 1)
    prepared = attempts / f".new-{uuid.uuid4().hex}"
    prepared.mkdir()
    try:
        (prepared / "owner.json").write_text(json.dumps(_this_process()))
        flush_file(prepared / "owner.json")
        os.rename(prepared, target)
    except OSError as error:
        shutil.rmtree(prepared)
        if error.errno in _TAKEN and target.exists():
            return None
        raise
    return Claim(target, heartbeat_seconds)


def latest_attempt(attempts: Path) -> int | None:
    """The highest number in a folder of attempts; None if there is none."""
    if not attempts.is_dir():
        return None
    return max((int(entry.name) for entry in attempts.iterdir() if entry.name.isdecimal()), default=None)


def attempt_state(attempt: Path, stale_seconds: float) -> State:
    """What became of an attempt that has no result.

    On this machine a process is alive if its number is in use by a process that started at the same time;
    elsewhere if its last sign of life is young enough, by the clock of the file system.

    Args:
        attempt: Folder of the attempt.
        stale_seconds: How old a sign of life may be.
    """
    if (attempt / "error.json").exists():
        return "failed"
    if (attempt / "released").exists():
        return "released"
    owner_file = attempt / "owner.json"
    owner = json.loads(owner_file.read_text())
    if owner["machine"] == _machine_id():
        alive = owner["started"] is not None and _process_start(owner["pid"]) == owner["started"]
    else:
        alive = _file_system_time(attempt.parent) - owner_file.stat().st_mtime < stale_seconds
    return "running" if alive else "stale"


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": platform.node(),
        "machine": _machine_id(),
        "pid": pid,
        "started": _process_start(pid),
        "time": time.time(),
    }


def _machine_id() -> str:
    """Names the processes whose numbers can be compared: one boot of one machine, one container of it."""
    parts = [platform.node()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return "/".join(parts)


def _process_start(pid: int) -> str | None:
    """When a process started, in the system's own unit; None if there is no such process, or only its
    remains.

    Where the system does not tell (no /proc), every living process gives "unknown".
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # it lives, as somebody else's
        return "unknown"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in brackets may hold anything; what follows it is state, 18 numbers, start time.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps files: on a shared folder it is not this machine's."""
    with tempfile.NamedTemporaryFile(prefix=".now-", dir=folder) as probe:
        return os.stat(probe.name).st_mtime

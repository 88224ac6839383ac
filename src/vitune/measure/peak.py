"""Measured peak memory: one fresh process per measurement, since a high-water mark never falls again."""

from __future__ import annotations

import gc
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from vitune.errors import ConfigError, VituneError

# Kibibytes everywhere but on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024

# A process started from a large one inherits that one's high-water mark on Linux (exec keeps the maximum).
# This small process stands between, so that the command's parent is small; it prints the mark of its child
# alone.
_BETWEEN = """
import json, os, resource, subprocess, sys
child = subprocess.Popen(sys.argv[2:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump({"code": os.waitstatus_to_exitcode(status), "maxrss": usage.ru_maxrss}, file)
"""


@dataclass(frozen=True)
class PeakMemory:
    """The high-water mark of a process.

    Attributes:
        bytes: Largest resident memory (CPU) or largest sum the allocator had given out (CUDA).
        start_bytes: The same when the callable started, so after all imports; 0 for a command.
        device: Where it was measured.
    """

    bytes: int
    start_bytes: int
    device: Literal["cpu", "cuda"]

    @property
    def increase(self) -> int:
        """What the callable itself added."""
        return self.bytes - self.start_bytes


def peak_memory(
    target: Callable[[], Any] | Sequence[str],
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    before: Callable[[], Any] | None = None,
) -> PeakMemory:
    """Measure the peak memory of a command or a callable in a fresh process.

    Args:
        target: A command line as a list of words, or a callable without arguments that pickle can send to a
            fresh process (a function of a module, or a `functools.partial` of one).
        device: `cpu` reads the process's high-water mark; `cuda` the allocator's (callables only).
        before: Called in that process before a callable; what it leaves in memory counts as there from the start, and
            on Linux its own high-water mark is forgotten.

    Raises:
        ConfigError: If the device is unknown, or `cuda` is asked of a command.
        VituneError: If the command or the callable fails; the message holds the exit code or the error.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"peak_memory: unknown device '{device}'; use 'cpu' or 'cuda'.")
    if callable(target):
        return _of_callable(target, device, before)
    if device == "cuda":
        raise ConfigError(
            "peak_memory: the CUDA allocator of another program cannot be read; give a callable."
        )
    return _of_command(list(target))


def _of_command(command: list[str]) -> PeakMemory:
    with tempfile.TemporaryDirectory(prefix="vitune-peak-") as folder:
        answer = Path(folder, "answer.json")
        between = subprocess.run(
            [sys.executable, "-S", "-c", _BETWEEN, str(answer), *command], stderr=subprocess.PIPE
        )
        if not answer.exists():
            last = between.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise VituneError(f"peak_memory: '{command[0]}' could not be started: {' '.join(last)}")
        told = json.loads(answer.read_text())
    if told["code"] != 0:
        last = between.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise VituneError(f"peak_memory: '{command[0]}' ended with code {told['code']}: {' '.join(last)}")
    return PeakMemory(told["maxrss"] * _MAXRSS_UNIT, 0, "cpu")


def _of_callable(
    function: Callable[[], Any], device: Literal["cpu", "cuda"], before: Callable[[], Any] | None
) -> PeakMemory:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(function, device, theirs, before))
    process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        told = None
    process.join()
    if told is None:
        raise VituneError(
            f"peak_memory: the measured process ended with code {process.exitcode} before it could answer; "
            "code -9 means that the system stopped it, most often for want of memory."
        )
    if isinstance(told, str):
        raise VituneError(f"peak_memory: the measured callable failed: {told}")
    return PeakMemory(told[1], told[0], device)


def _measure(
    function: Callable[[], Any], device: str, answer: Connection, before: Callable[[], Any] | None = None
) -> None:
    """Runs in the fresh process: sends (bytes at the start, bytes at the peak), or the error as text."""
    try:
        if before is not None:
            before()
            gc.collect()
            _forget_high_water()
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
            function()
            answer.send((start, torch.cuda.max_memory_allocated()))
        else:
            start = _high_water_bytes()
            function()
            answer.send((start, _high_water_bytes()))
    except Exception as error:
        # The parent raises it again: an error must not be lost with the process.
        answer.send(f"{type(error).__name__}: {error}")


def _forget_high_water() -> None:
    """Let the high-water mark be what is held now, where the system can."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _high_water_bytes() -> int:
    """Largest resident memory of this process since it was started."""
    if sys.platform == "linux":
        # Of this program alone; getrusage would count that of the process which started it.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT

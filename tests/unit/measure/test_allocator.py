"""With freed memory returned, a process holds what its tensors hold."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from vitune.measure import keep_freed_memory, return_freed_memory

# Blocks of 2 MiB below ever larger ones: glibc keeps them for later once its threshold has grown.
PROGRAM = """
import sys, torch
from vitune.measure import keep_freed_memory, return_freed_memory
def held():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS:")) / 1024
assert {call}()
kept = []
before = held()
for _ in range(20):
    blocks = [torch.ones(2**19) for _ in range(20)]
    kept.append(torch.ones(2**10))
    del blocks
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_blocks_go_back_or_stay() -> None:
    held = {}
    for call in ("return_freed_memory", "keep_freed_memory"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        held[call] = float(done.stdout)
    assert held["return_freed_memory"] < 5
    assert held["keep_freed_memory"] > held["return_freed_memory"] + 8


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not return_freed_memory()
    assert not keep_freed_memory()

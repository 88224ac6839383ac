import functools
import os
import sys

import pytest

from vitune.errors import ConfigError, VituneError
from vitune.measure import peak_memory

MIB = 2**20


def allocate(mebibytes: int) -> None:
    block = bytearray(mebibytes * MIB)
    block[::4096] = b"1" * len(block[::4096])  # touch each page, or it is never resident


def fail() -> None:
    raise OSError("no such thing")


def vanish() -> None:
    os._exit(3)


def test_a_callable_adds_what_it_allocates():
    peak = peak_memory(functools.partial(allocate, 200))
    assert peak.device == "cpu"
    assert 190 * MIB < peak.increase < 230 * MIB
    assert peak.bytes == peak.start_bytes + peak.increase


def test_a_command_is_measured_alone_however_large_its_parent_is():
    code = "b = bytearray(150 * 2**20); b[::4096] = b'1' * len(b[::4096])"
    ballast = bytearray(400 * MIB)
    ballast[::4096] = b"1" * len(ballast[::4096])
    peak = peak_memory([sys.executable, "-S", "-c", code])
    assert 145 * MIB < peak.bytes < 200 * MIB
    assert len(ballast) == 400 * MIB


def test_failures_are_told():
    with pytest.raises(VituneError, match="the measured callable failed: OSError: no such thing"):
        peak_memory(fail)
    with pytest.raises(VituneError, match="ended with code 3 before it could answer"):
        peak_memory(vanish)
    with pytest.raises(VituneError, match="ended with code 5: boom"):
        peak_memory([sys.executable, "-S", "-c", "import sys; print('boom', file=sys.stderr); sys.exit(5)"])
    with pytest.raises(VituneError, match=r"'no-such-program' could not be started: .*No such file"):
        peak_memory(["no-such-program"])


def test_wrong_device():
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        peak_memory(fail, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be read; give a callable"):
        peak_memory(["true"], device="cuda")

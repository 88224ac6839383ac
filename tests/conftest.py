"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Models of a few thousand numbers are slower on several threads, and sums then differ from machine to machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing in the tests may reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# No deadlines: they would be about the machine. In CI the same examples each time; new ones are for people's machines.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True, scope="session")
def _auto_is_fp32() -> Iterator[None]:
    """Precision "auto" is bf16 on some machines; what tests compute is not to depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False, raising=False)
        yield

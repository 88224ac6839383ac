"""Randomness that can be replayed: every seed is a function of the run's seed and of what it is for.

Nothing in vitune draws from a global random state that was left behind by something else. Code that needs
random numbers derives a seed from (run seed, keys) and draws inside `seeded`, so that the numbers depend
neither on the number of data workers nor on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SEED_BITS = 63  # torch.manual_seed takes any signed 64-bit integer; 63 bits stay positive
_NUMPY_SEED_MASK = 2**32 - 1


def derive_seed(seed: int, *keys: int | str) -> int:
    """A seed for one purpose, the same in every process and on every machine.

    Args:
        seed: The seed of the run.
        *keys: What the seed is for, for instance `("augment", epoch, index)`. The integer 1 and the string
            "1" are different keys, and so are ("ab", "c") and ("a", "bc").

    Returns:
        An integer of 63 bits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in (seed, *keys):
        # An index may arrive as a numpy integer or a bool; its value counts, not its class.
        kind, text = ("s", key) if isinstance(key, str) else ("i", str(int(key)))
        encoded = text.encode(errors="surrogateescape")  # file names need not be UTF-8
        digest.update(f"{kind}{len(encoded)}:".encode())
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "big") >> (64 - _SEED_BITS)


def reseed(seed: int) -> None:
    """Seed Python's `random`, numpy's global generator and torch's CPU generator.

    Args:
        seed: A seed of at most 63 bits, as `derive_seed` gives.
    """
    import torch  # here, so that deriving seeds needs no torch

    random.seed(seed)
    np.random.seed(seed & _NUMPY_SEED_MASK)
    # Not torch.manual_seed, which would seed every accelerator too.
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Leave the three global generators that `reseed` seeds as they were on entry."""
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`reseed` for the length of a block; what the generators were before comes back after it.

    Args:
        seed: A seed of at most 63 bits, as `derive_seed` gives.
    """
    with preserved_randomness():
        reseed(seed)
        yield

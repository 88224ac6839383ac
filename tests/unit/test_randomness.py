from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from vitune.randomness import derive_seed, preserved_randomness, reseed, seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_is_the_same_in_another_process():
    code = "from vitune.randomness import derive_seed; print(derive_seed(3, 'augment', 5, 7))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == derive_seed(3, "augment", 5, 7)


def test_seed_value_is_pinned():
    # A change of this number would break the resume of every run made before it.
    assert derive_seed(0) == 6148773199958884930
    assert derive_seed(0, "order", 1) == 3119674941621380089


def test_seed_has_63_bits_and_depends_on_every_key():
    seeds = {derive_seed(s, k, e) for s in range(10) for k in ("a", "b") for e in range(10)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) >= 2**61


def test_keys_do_not_run_together():
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, 1, 2) != derive_seed(0, 12)
    assert derive_seed(0, np.int64(4)) == derive_seed(0, 4)


def test_seeded_repeats_all_three_generators():
    with seeded(11):
        first = draw()
    with seeded(11):
        second = draw()
    with seeded(12):
        other = draw()
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_seeded_takes_seeds_of_63_bits():
    with seeded(2**63 - 1):
        assert draw() != draw()


def test_seeded_restores_the_state_even_after_an_error():
    def fail_inside():
        with seeded(99):
            draw()
            raise RuntimeError("inside")

    with seeded(1):
        expected = [draw(), draw()]
    with seeded(1):
        got = [draw()]
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        got.append(draw())
    assert got == expected


def test_preserved_randomness_undoes_a_reseed():
    with seeded(1):
        expected = draw()
    with seeded(1):
        with preserved_randomness():
            reseed(7)
            inside = draw()
        assert draw() == expected
    with seeded(7):
        assert draw() == inside


def test_deriving_seeds_needs_no_torch():
    code = "import sys, vitune.randomness as r; r.derive_seed(0); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"

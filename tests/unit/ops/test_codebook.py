from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.shared import need_shared

from vitune.ops.codebook import BITS, codebook, fixed_point, lloyd

# bi.md 2.3
LEVELS = {
    1: [0.67448974],
    2: [0.37775416, 1.26572033],
    4: [0.10555028, 0.31903600, 0.54007206, 0.77519205, 1.03400628, 1.33310668, 1.70773757, 2.26549061],
}


@pytest.mark.parametrize("bits", BITS)
def test_the_tables_are_what_the_iteration_gives(bits):
    for ours, made in ((codebook(bits), lloyd(bits)), (codebook(bits, "converged"), fixed_point(bits))):
        # Other machines round the last bit of a float64 logarithm in another way.
        torch.testing.assert_close(ours.levels, made.levels, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(ours.thresholds, made.thresholds, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bits", LEVELS)
def test_levels_as_published(bits):
    levels = codebook(bits).levels
    positive = torch.tensor(LEVELS[bits])
    torch.testing.assert_close(levels, torch.cat([-positive.flip(0), positive]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("bits", LEVELS)
def test_below_eight_bits_the_reference_has_converged(bits):
    assert (codebook(bits).levels - codebook(bits, "converged").levels).abs().max() <= 2e-7


def test_at_eight_bits_it_has_not():
    reference, converged = codebook(8).levels, codebook(8, "converged").levels
    assert reference[-1].item() == pytest.approx(2.80951, abs=1e-5)
    assert converged[-1].item() == pytest.approx(3.78540, abs=1e-5)
    assert (reference.diff() < 1e-6).sum() > 100
    assert converged.diff().min() > 0.01


@pytest.mark.parametrize(
    ("bits", "book", "error"),
    [
        (1, "reference", 0.4732),
        (2, "reference", 0.2658),
        (4, "reference", 0.0745),
        (8, "reference", 0.0223),
        (8, "converged", 0.0049),
    ],
)
def test_mean_absolute_error_of_a_gaussian(bits, book, error):
    found = codebook(bits, book)
    x = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000).float()
    rounded = found.levels[torch.bucketize(x, found.thresholds)]
    assert (x - rounded).abs().mean().item() == pytest.approx(error, abs=1e-4)


def test_a_caller_cannot_spoil_the_table():
    codebook(1).levels.zero_()
    assert codebook(1).levels.abs().min() > 0.6


def test_the_reference_tables_are_those_of_the_reference():
    golden = load_file(need_shared("golden") / "bi/codebooks.safetensors")
    for bits in BITS:
        assert torch.equal(codebook(bits).levels, golden[f"code_b{bits}"])
        assert torch.equal(codebook(bits).thresholds, golden[f"threshold_b{bits}"])

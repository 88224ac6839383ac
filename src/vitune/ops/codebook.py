"""Codebooks: the levels to which weights of a Gaussian shape are rounded, 2^b of them for b bits.

They minimise the mean absolute error of a standard normal variable, by Lloyd's iteration with medians of the cells.
From Jie, Wang, Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy",
ICCV 2023 (arXiv:2307.16867); JieShibo/PETL-ViT @ 026e4f1, folder `binary_adapter`.

The numbers lie in `codebooks.safetensors` rather than being computed: a file of packed weights must mean the same on
every machine. `lloyd` and `fixed_point` are how they came about, up to the last bit of a float.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import torch
from safetensors.torch import load
from torch import Tensor

BITS = (1, 2, 4, 8)
BookName = Literal["reference", "converged"]


@dataclass(frozen=True)
class Codebook:
    """Levels and where to change from one to the next.

    Attributes:
        levels: Ascending, (2^b,) float32.
        thresholds: Between neighbouring levels, (2^b - 1,) float32.
    """

    levels: Tensor
    thresholds: Tensor


def codebook(bits: int, book: BookName = "reference") -> Codebook:
    """A book by its number of bits.

    Args:
        bits: 1, 2, 4 or 8.
        book: `reference` stops after 500 iterations, as the published code does: at 8 bits the levels are then far
            from their place (the outermost at 2.81, and a hundred of them at 0). `converged` is the fixed point; for
            1, 2 and 4 bits the two agree.
    """
    tensors = _books()
    return Codebook(tensors[f"{book}.{bits}.levels"].clone(), tensors[f"{book}.{bits}.thresholds"].clone())


@functools.cache
def _books() -> dict[str, Tensor]:
    return load(files("vitune.ops").joinpath("codebooks.safetensors").read_bytes())


def lloyd(bits: int, iterations: int = 500) -> Codebook:
    """The iteration from all levels at 0, in float64; the thresholds are those before the last update."""
    levels = torch.zeros(2**bits, dtype=torch.float64)
    thresholds = levels[1:]
    for _ in range(iterations):
        thresholds = _middles(levels)
        levels = torch.special.ndtri(_cell_medians(thresholds))
    return Codebook(levels.float(), thresholds.float())


def fixed_point(bits: int) -> Codebook:
    """What the iteration converges to, by Newton's method on the cells' medians."""
    count = 2**bits
    # Many levels lie as dense as the square root of the normal density, that is like N(0, 2).
    levels = math.sqrt(2) * torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    for _ in range(50):
        thresholds = _middles(levels)
        medians = torch.special.ndtri(_cell_medians(thresholds))
        weight = _density(thresholds) / 4
        # How the median of a cell follows the levels beside it, and its own.
        pull = torch.diag(weight, 1) + torch.diag(weight, -1)
        pull += torch.diag(pull.sum(1))
        jacobian = torch.eye(count, dtype=torch.float64) - pull / _density(medians)[:, None]
        levels = levels - torch.linalg.solve(jacobian, levels - medians)
    levels = (levels - levels.flip(0)) / 2  # exactly antisymmetric
    return Codebook(levels.float(), _middles(levels).float())


def _middles(levels: Tensor) -> Tensor:
    return (levels[1:] + levels[:-1]) / 2


def _cell_medians(thresholds: Tensor) -> Tensor:
    """Probability below the median of each cell."""
    below = torch.cat([thresholds.new_zeros(1), torch.special.ndtr(thresholds), thresholds.new_ones(1)])
    return (below[1:] + below[:-1]) / 2


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)

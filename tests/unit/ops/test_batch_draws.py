"""A batch in parts draws what the whole batch would, and what cannot be told by image is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor
from torch.nn import functional as F

from vitune.ops.batch_draws import BatchDraws, DrawsOtherwiseError

IMAGES, CPU = 7, torch.device("cpu")
PARTS = [slice(0, 3), slice(3, 6), slice(6, 9)]  # the last one has one image


def fused_dropout(x: Tensor) -> Tensor:
    return torch.native_dropout(x, 0.3, True)[0]


def rounded(x: Tensor) -> Tensor:
    """Drop path as transformers writes it."""
    keep = torch.rand((x.shape[0], 1, 1), dtype=x.dtype, device=x.device).add_(0.6).floor_()
    return x.div(0.6) * keep


def of_windows(x: Tensor) -> Tensor:
    """Four rows of an image each."""
    return F.dropout(x.reshape(-1, 5, 1, 8), 0.3).reshape(x.shape[0], 20, 8)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "transposed": lambda x: F.dropout(x.transpose(1, 2), 0.3),
    "one row for all": lambda x: F.dropout(torch.arange(1.0, 9).expand(x.shape[0], 3, -1), 0.3),
    "fused": fused_dropout,
    "drop path": DropPath(0.4).train(),
    "rounded": rounded,
    "windows": of_windows,
    "attention": lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.3),
    "several": lambda x: DropPath(0.4)(F.dropout(F.dropout(x, 0.1), 0.5)),
}


def batch() -> Tensor:
    return torch.randn(IMAGES, 20, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DRAWS)
def test_parts_draw_what_the_whole_batch_draws_and_a_second_pass_the_same(name: str):
    compute, x = DRAWS[name], batch()
    torch.manual_seed(3)
    whole, after = compute(x), torch.get_rng_state()
    assert not torch.equal(compute(x), whole)  # it does draw

    torch.manual_seed(3)
    draws = BatchDraws(IMAGES, CPU)
    part_of, parts = draws.first(), []
    for rows in PARTS:
        with part_of(rows):
            parts.append(compute(x[rows]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), after)

    torch.rand(5)
    found = torch.get_rng_state()
    with draws.again() as part_of:
        for rows, first in zip(PARTS, parts, strict=True):
            with part_of(rows):
                assert torch.equal(compute(x[rows]), first)
    assert torch.equal(torch.get_rng_state(), found)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.empty(2, *x.shape).exponential_(),  # pairs, not images, come first
        lambda x: F.dropout(x.new_ones(5, 8), 0.3),  # a weight's
        lambda x: torch.randperm(x.shape[1]),
    ],
)
def test_other_draws_are_refused(compute: Callable[[Tensor], Tensor]):
    x = batch()[:3]
    with pytest.raises(DrawsOtherwiseError), BatchDraws(IMAGES, CPU).first()(slice(0, 3)):
        compute(x)


def test_attention_that_drops_nothing_is_left_alone():
    x = batch()[:, None]
    whole = F.scaled_dot_product_attention(x, x, x)
    with BatchDraws(IMAGES, CPU).first()(slice(0, 3)):
        part = F.scaled_dot_product_attention(x[:3], x[:3], x[:3])
    torch.testing.assert_close(part, whole[:3])


def test_rewinding_leaves_no_trace():
    before, x = torch.get_rng_state(), batch()[:3]
    draws = BatchDraws(IMAGES, CPU)
    with draws.first()(PARTS[0]):
        F.dropout(x, 0.3)
    draws.rewind()
    assert torch.equal(torch.get_rng_state(), before)

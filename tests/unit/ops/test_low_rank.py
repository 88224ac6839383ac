"""Updates added to their own channels: the same as one product with zeros where there is none."""

from __future__ import annotations

import pytest
import torch
from tests.contract.cases import tune
from tests.contract.families import images
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from vitune.measure import count_flops
from vitune.ops.low_rank import ADD_LOW_RANK, add_low_rank, worthwhile
from vitune.ops.recompute import Recomputing

PLACES = {"own latents": [(0, 0), (8, 2)], "one latent": [(3, 0), (9, 0)], "one update": [(0, 0)]}


def tensors(places: list[tuple[int, int]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """y (2, 5, 12), latent (2, 5, 4) and a matrix (3, 2) for each place."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 12), (2, 5, 4), *([(3, 2)] * len(places))]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made]


def dense(y: Tensor, latent: Tensor, ups: list[Tensor], places: list[tuple[int, int]]) -> Tensor:
    for up, (row, column) in zip(ups, places, strict=True):
        change = latent[..., column : column + up.shape[1]] @ up.t()
        y = y + F.pad(change, (row, y.shape[-1] - row - up.shape[0]))
    return y


@pytest.mark.parametrize("name", PLACES)
def test_value_and_gradients(name: str) -> None:
    places = PLACES[name]
    y, latent, *ups = tensors(places)
    found, expected = add_low_rank(y, latent, ups, places), dense(y, latent, ups, places)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad((z * weights).sum(), (y, latent, *ups)) for z in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_torchs_own_checks_of_operations() -> None:
    y, latent, *ups = tensors(PLACES["own latents"])
    torch.library.opcheck(ADD_LOW_RANK, (y, latent, ups, [0, 8], [0, 2]))


def test_half_precision_keeps_the_factors_gradients_wide() -> None:
    y, latent, *_ = tensors([], torch.bfloat16)
    ups = [up.detach().float().requires_grad_() for up in tensors(PLACES["own latents"])[2:]]
    found = add_low_rank(y, latent, ups, PLACES["own latents"])
    found.sum().backward()
    assert (found.dtype, latent.grad.dtype, ups[0].grad.dtype) == (  # type: ignore[union-attr]
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    exact = dense(y.double(), latent.double(), [up.double() for up in ups], PLACES["own latents"])
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)


def test_its_operations_are_counted() -> None:
    with FakeTensorMode():
        y, latent, *ups = tensors(PLACES["own latents"])
        forward = count_flops(lambda: add_low_rank(y, latent, ups, PLACES["own latents"]))
        both = count_flops(lambda: add_low_rank(y, latent, ups, PLACES["own latents"]).sum().backward())
    assert (forward, both) == (2 * 10 * 2 * 3 * 2, 3 * 2 * 10 * 2 * 3 * 2)


def test_it_is_made_again_where_the_layers_output_is() -> None:
    y, latent, *ups = tensors([(0, 0)])
    again = {torch.ops.aten.gelu.default, ADD_LOW_RANK}
    with Recomputing(lambda operation, *_: operation in again, again) as run:
        z = add_low_rank(F.gelu(y), latent, ups, [(0, 0)])
        assert run.recipe_of(z) is not None
        loss = z.square().sum()
    expected = dense(F.gelu(y), latent, ups, [(0, 0)]).square().sum()
    ours, theirs = (torch.autograd.grad(end, (y, latent, *ups)) for end in (loss, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_compilers_get_ordinary_products() -> None:
    assert not worthwhile(torch.empty(2, device="meta"))
    assert worthwhile(torch.empty(2))
    model = tune("lora", "plain").model.eval()
    program = torch.export.export(model, (images("plain"),))
    assert not any(node.target is ADD_LOW_RANK for node in program.graph.nodes)

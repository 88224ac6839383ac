"""What is computed again equals what was kept, bit for bit; what must not be computed again is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.measure import live_bytes, saved_activation_bytes
from vitune.ops.recompute import Recomputing

CHEAP = {
    torch.ops.aten.native_layer_norm.default,
    torch.ops.aten.gelu.default,
    torch.ops.aten._to_copy.default,
}


def cheap(operation: Any, args: tuple[Any, ...], run: Recomputing) -> bool:
    return operation in CHEAP


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.LayerNorm(8))


def images() -> Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()


def recomputed(model: nn.Module, x: Tensor) -> Tensor:
    with Recomputing(cheap, CHEAP):
        return model(x).square().sum()


def gradients(model: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    x = images()
    forward(model, x).backward()
    assert x.grad is not None
    return {"x": x.grad} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_are_equal_bit_for_bit(dtype):
    model = mlp()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        stock = gradients(model, lambda model, x: model(x).square().sum())
        lean = gradients(model, recomputed)
    assert stock.keys() == lean.keys()
    assert all(torch.equal(stock[name], lean[name]) for name in stock)


def test_outputs_that_are_made_again_are_not_kept():
    model, x = mlp(), images()
    stock = saved_activation_bytes(model, lambda model: model(x).square().sum(), ignore=[x])
    lean = saved_activation_bytes(model, lambda model: recomputed(model, x), ignore=[x])
    norm_output, gelu_output = 4 * 6 * 8 * 4, 4 * 6 * 32 * 4
    # The first norm's output, the GELU's, and the last norm's, which the square keeps.
    assert stock.bytes - lean.bytes == 2 * norm_output + gelu_output


def test_counters_see_what_recipes_hold():
    """The input of the first norm needs no gradient, so autograd keeps nothing of it; the recipe does."""
    model, x = mlp(), images().detach()
    for frozen in model[0].parameters():
        frozen.requires_grad_(False)
    for forward in (lambda model: model(2 * x).square().sum(), lambda model: recomputed(model, 2 * x)):
        saved = saved_activation_bytes(model, forward, ignore=[x]).bytes
        live = live_bytes(model, forward, ignore=[x], backward=False).after_forward
        assert live - saved == 4  # the loss itself


def test_an_output_that_is_overwritten_is_kept():
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        y = model[0](x)
        y[..., 0] += 1
        return model[1](y).square().sum()

    def lean(model: nn.Module, x: Tensor) -> Tensor:
        with Recomputing(cheap, CHEAP):
            return forward(model, x)

    model = mlp()
    stock, ours = gradients(model, forward), gradients(model, lean)
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


def test_an_input_that_is_overwritten_later_is_noticed():
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 1  # needs no gradient: autograd has no reason to watch it
            y = self.linear(F.layer_norm(h, (8,)))
            h.add_(1)
            return y

    model, x = Doubled(), images().detach()
    with Recomputing(cheap, CHEAP):
        loss = model(x).square().sum()
    with pytest.raises(RuntimeError, match=r"changed in place .* memory='stock'"):
        loss.backward()


def test_a_retained_graph_may_be_used_twice():
    model, x = mlp(), images()
    with Recomputing(cheap, CHEAP):
        loss = model(x).square().sum()
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_was_made_again_is_let_go_after_its_last_use():
    model, x = mlp(), images()
    with Recomputing(cheap, CHEAP):
        loss = model(x).square().sum()
    before = live_bytes(model, lambda model: recomputed(model, x), ignore=[x])
    loss.backward()
    kept = before.after_forward
    # One GELU output, one norm output and the gradients of both are the most that is alive on top.
    assert before.peak - kept <= 4 * (4 * 6 * 32 * 4) + sum(p.nbytes for p in model.parameters())


def test_hooks_around_it_still_see_every_tensor_that_is_kept():
    model, x = mlp(), images()
    packed: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tuple(tensor.shape))
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = recomputed(model, x)
    loss.backward()
    assert (24, 32) in packed or (4, 6, 32) in packed
    assert x.grad is not None

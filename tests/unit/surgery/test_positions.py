"""Further tokens in attentions of every kind: tokens of the sequence without a position, whose output is dropped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import anatomy, logits
from vitune.surgery import AttachAtPoint, carry_out, undo

ROWS = 3


class Rows(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows


class Keys(nn.Module):
    """Further keys and values of every head."""

    def __init__(self, pair: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.pair


def called(model: nn.Module, path: str, family: str) -> tuple[list[Any], dict[str, Any]]:
    """What an attention gets in a forward pass."""
    seen: list[tuple[list[Any], dict[str, Any]]] = []
    attention = model.get_submodule(path)
    hook = attention.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((list(args), dict(kwargs))), with_kwargs=True
    )
    logits(model, images(family))
    hook.remove()
    return seen[0]


def output(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def with_tokens_in_front(attention: Any, rows: Tensor, args: list[Any], kwargs: dict[str, Any]) -> Tensor:
    """The plain attention of a longer sequence whose first tokens have no position."""
    name = "hidden_states" if "hidden_states" in kwargs else None
    x = kwargs[name] if name else args[0]
    longer = torch.cat([rows.expand(len(x), -1, -1), x], dim=1)
    arguments = dict(kwargs)
    if name:
        arguments[name] = longer
    rest = args if name else [longer, *args[1:]]
    if arguments.get("attention_mask") is not None:  # relative positions, in transformers' BEiT
        arguments["attention_mask"] = F.pad(arguments["attention_mask"], (ROWS, 0, ROWS, 0))
    if getattr(attention, "num_prefix_tokens", None) is not None:
        attention.num_prefix_tokens += ROWS
    if hasattr(attention, "_get_rel_pos_bias"):
        own = attention._get_rel_pos_bias()
        attention._get_rel_pos_bias = lambda: F.pad(own, (ROWS, 0, ROWS, 0))
    try:
        return output(attention(*rest, **arguments))[:, ROWS:]
    finally:
        if getattr(attention, "num_prefix_tokens", None) is not None:
            attention.num_prefix_tokens -= ROWS
        vars(attention).pop("_get_rel_pos_bias", None)


FAMILIES = ["eva02", "dinov3", "beit", "hf_dinov3", "hf_beit", "hf_clip", "hf_siglip", "hf_dinov2"]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_further_tokens_are_attended_to_and_have_no_position(family):
    model = backbone(family).eval()
    found = anatomy(model)
    path = found.blocks[0].attention
    args, kwargs = called(model, path, family)
    attention = model.get_submodule(path)
    rows = torch.randn(1, ROWS, found.width, generator=torch.Generator().manual_seed(0))
    plain = output(attention(*args, **kwargs))
    expected = with_tokens_in_front(attention, rows, args, kwargs)
    assert (plain - expected).abs().max() > 1e-3
    step = AttachAtPoint("blocks.0.attn.context", path, "attn.context", "test", lambda: Rows(rows))
    carry_out(model, [step])
    torch.testing.assert_close(output(attention(*args, **kwargs)), expected, rtol=1e-5, atol=1e-5)
    # A score of minus infinity: as if they were not there.
    never = torch.full((ROWS,), -torch.inf)
    undo(model, [step])
    carry_out(model, [AttachAtPoint("a", path, "attn.kv", "none", lambda: Keys(empty(found)))])
    hidden = output(attention(*args, **kwargs, context=rows, context_bias=never))
    torch.testing.assert_close(hidden, plain, rtol=1e-5, atol=1e-5)


def empty(found: Any) -> tuple[Tensor, Tensor]:
    """No further keys and values at all: the forward pass with points, changing nothing."""
    heads = found.blocks[0].num_heads
    nothing = torch.zeros(1, heads, 0, found.width // heads)
    return nothing, nothing


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_further_keys_are_used_as_they_are(family):
    model = backbone(family).eval()
    found = anatomy(model)
    path = found.blocks[0].attention
    args, kwargs = called(model, path, family)
    attention = model.get_submodule(path)
    plain = output(attention(*args, **kwargs))
    heads = found.blocks[0].num_heads
    keys, values = torch.randn(2, 1, heads, ROWS, found.width // heads)
    carry_out(model, [AttachAtPoint("a", path, "attn.kv", "test", lambda: Keys((keys, values)))])
    changed = output(attention(*args, **kwargs))
    assert (changed - plain).abs().max() > 1e-3
    # Order does not matter, which it would if positions were given to them.
    model.get_submodule(f"{path}.vitune.points.attn_kv.test").pair = (keys.flip(2), values.flip(2))
    torch.testing.assert_close(output(attention(*args, **kwargs)), changed, rtol=1e-5, atol=1e-5)

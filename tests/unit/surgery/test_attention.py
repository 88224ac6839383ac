from __future__ import annotations

import copy

import pytest
import torch
from tests.contract.families import backbone, images
from timm.layers.attention import Attention
from torch import Tensor, nn

from vitune.anatomy import anatomy, logits
from vitune.errors import SurgeryError
from vitune.measure import saved_activation_bytes
from vitune.surgery import ATTENTION_POINTS, AttachAtPoint, carry_out, undo

WIDTH, HEADS, TOKENS = 32, 2, 5


class Rows(nn.Module):
    """Further tokens."""

    def __init__(self, count: int = 3, batch: int = 1) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(batch, count, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows


class Pair(nn.Module):
    """Further keys and values."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.randn(1, HEADS, count, WIDTH // HEADS))
        self.v = nn.Parameter(torch.randn(1, HEADS, count, WIDTH // HEADS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.k, self.v


class Some(nn.Module):
    """All tokens but the second may be attended to."""

    def forward(self, x: Tensor) -> Tensor:
        allowed = torch.ones(x.shape[:2], dtype=torch.bool)
        allowed[:, 1] = False
        return allowed


class Watch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, float]] = []

    def forward(self, q: Tensor, k: Tensor, scale: float) -> None:
        self.seen.append((q, k, scale))


def attention(fused: bool = True, **options) -> Attention:
    torch.manual_seed(0)
    made = Attention(WIDTH, HEADS, qkv_bias=True, norm_layer=nn.LayerNorm, **options)
    made.fused_attn = fused
    return made.eval()


def at(point: str, layer: nn.Module, path: str = "0") -> AttachAtPoint:
    return AttachAtPoint(f"blocks.0.{point}", path, point, "test", lambda: layer)


def edited(module: nn.Module, *steps: AttachAtPoint) -> nn.Module:
    carry_out(nn.Sequential(module), steps)
    return module


def written_out(module: Attention, x: Tensor, rows: Tensor, pair: Pair | None, mask: Tensor | None = None):
    """The same in the plainest words: more keys and values than queries."""
    everything = torch.cat([rows.expand(len(x), -1, -1), x], dim=1)
    qkv = module.qkv(everything).reshape(len(x), -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    q, k, v = module.q_norm(qkv[0][:, :, rows.shape[1] :]), module.k_norm(qkv[1]), qkv[2]
    if pair is not None:
        k = torch.cat([pair.k.expand(len(x), -1, -1, -1), k], dim=2)
        v = torch.cat([pair.v.expand(len(x), -1, -1, -1), v], dim=2)
    scores = q @ k.transpose(2, 3) * module.scale
    if mask is not None:
        scores[..., -TOKENS:] = scores[..., -TOKENS:].masked_fill(~mask, -torch.inf)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    return module.proj(module.norm(y))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "scale_norm": True}], ids=["plain", "norms"])
def test_context_and_further_keys_and_values_are_what_they_say(fused, options):
    module, x, rows, pair = attention(fused, **options), torch.randn(2, TOKENS, WIDTH), Rows(), Pair()
    expected = written_out(module, x, rows.rows, pair)
    edited(module, at("attn.context", rows), at("attn.kv", pair))
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=1e-5)


def test_what_a_block_hands_over_stands_beside_the_attentions_own_context():
    module, x, own, given = attention(), torch.randn(2, TOKENS, WIDTH), Rows(2), torch.randn(2, 1, WIDTH)
    expected = written_out(module, x, torch.cat([given, own.rows.expand(2, -1, -1)], dim=1), None)
    edited(module, at("attn.context", own))
    torch.testing.assert_close(module(x, context=given), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mask", ["none", "boolean", "added", "causal"])
def test_masks_are_about_the_tokens_alone(fused, mask):
    module, x, rows = attention(fused), torch.randn(2, TOKENS, WIDTH), Rows()
    lower = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    allowed = torch.tensor([True, False, True, True, True]).expand(TOKENS, -1)
    allowed = allowed if mask == "none" else allowed & lower
    expected = written_out(module, x, rows.rows, None, allowed)
    edited(module, at("attn.context", rows), at("attn.keys", Some()))
    given = {
        "none": {},
        "boolean": {"attn_mask": lower},
        "added": {"attn_mask": torch.zeros(TOKENS, TOKENS).masked_fill(~lower, -torch.inf)},
        "causal": {"is_causal": True},
    }
    torch.testing.assert_close(module(x, **given[mask]), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_watching_changes_nothing_and_sees_the_tokens_own_queries_and_keys(fused, causal):
    module, x, watcher = attention(fused, qk_norm=True), torch.randn(2, TOKENS, WIDTH), Watch()
    expected = module(x, is_causal=causal)
    edited(module, at("attn.watch", watcher))
    assert torch.equal(module(x, is_causal=causal), expected)
    ((q, k, scale),) = watcher.seen
    assert scale == module.scale
    assert q.shape == k.shape == (2, HEADS, TOKENS, WIDTH // HEADS)
    watcher.seen.clear()
    edited(module, at("attn.context", Rows()), at("attn.kv", Pair()))
    module(x)
    torch.testing.assert_close(watcher.seen[0][:2], (q, k), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["plain", "hf", "registers", "qk_norm", "no_qkv_bias"])
def test_points_of_the_attention_leave_the_very_same_model_where_they_bring_nothing(family):
    plain, model = backbone(family).eval(), backbone(family).eval()
    path = anatomy(model).blocks[0].attention
    steps = [at("attn.watch", Watch(), path), at("attn.context", Rows(0), path)]
    carry_out(model, steps)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(model, images(family)), logits(plain, images(family)), atol=1e-6, rtol=0
        )
        undo(model, steps[1:])
        assert torch.equal(logits(model, images(family)), logits(plain, images(family)))
    undo(model, steps[:1])
    assert type(model.get_submodule(path)) is type(plain.get_submodule(path))


@pytest.mark.parametrize("family", ["plain", "hf", "layer_scale"])
def test_context_of_a_block_is_what_tokens_would_be_that_nobody_reads(family):
    model = backbone(family).eval()
    found, x, rows = anatomy(model), torch.randn(2, TOKENS, WIDTH), Rows()
    block = model.get_submodule(found.blocks[0].path)
    with torch.no_grad():
        expected = block(torch.cat([rows.rows.expand(2, -1, -1), x], dim=1))[:, 3:]
        step = at("context", rows, found.blocks[0].path)
        carry_out(model, [step])
        torch.testing.assert_close(block(x), expected, atol=2e-6, rtol=1e-5)
        both = copy.deepcopy(block)
        torch.testing.assert_close(both(x), expected, atol=2e-6, rtol=1e-5)
    undo(model, [step])
    assert not any("vitune" in name for name, _ in model.named_modules())


def test_a_point_of_the_other_kind_is_refused_with_those_there_are():
    model = backbone("plain")
    with pytest.raises(
        SurgeryError, match=r"blocks.0.middle: no point 'middle'; known: attn.context, attn.kv"
    ):
        carry_out(model, [at("middle", Rows(), "blocks.0.attn")])
    with pytest.raises(SurgeryError, match=r"blocks.0.attn.kv: no point 'attn.kv'; known: attn.input"):
        carry_out(model, [at("attn.kv", Pair(), "blocks.0")])
    assert ATTENTION_POINTS == ("attn.context", "attn.kv", "attn.keys", "attn.watch")


def test_one_storage_of_queries_keys_and_values_is_kept():
    x = torch.randn(2, TOKENS, WIDTH, requires_grad=True)
    for further, layers in ((0, {}), (3, {"attn.context": Rows()}), (2, {"attn.kv": Pair()})):
        module = edited(attention(), *(at(point, layer) for point, layer in layers.items()))
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.startswith("vitune"))
        kept = saved_activation_bytes(module, lambda module: module(x).sum()).bytes
        qkv, out, sums = 3 * (TOKENS + further) * WIDTH, TOKENS * WIDTH, TOKENS * HEADS
        assert kept == 4 * 2 * (qkv + out + sums), layers

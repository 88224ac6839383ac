"""timm's `Eva`: EVA, EVA-02, DINOv3, the Perception Encoder, rope ViTs.

Rotary or learned positions, qkv fused or apart, gated MLPs, register tokens. Where qkv is fused and its bias kept apart
(`q_bias`, `v_bias`: EVA, the small EVA-02), `vitune.surgery.split_bias` makes edits of qkv act.
"""

from __future__ import annotations

from timm.layers.attention import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.anatomy._timm import (
    attention_operators,
    heads,
    image_of,
    mlp_operators,
    patch_operators,
    pool_operators,
    present,
)
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-eva"
TIMM_FILES = ("eva",)
LOOKED_FOR = "timm.models.eva.Eva"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, Eva)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a block, its attention or its MLP is of a kind without known roles.
    """
    assert isinstance(model, Eva)
    grid, size = image_of(model)
    operators = patch_operators(model)
    operators += [operator(model, name, name) for name in present(model, "norm_pre")]
    blocks = []
    for i, block in enumerate(model.blocks):
        operators += block_operators(model, i, block)
        blocks.append(Block(i, f"blocks.{i}", model.embed_dim, block.attn.num_heads, f"blocks.{i}.attn"))  # type: ignore[union-attr, arg-type]
    operators.append(operator(model, "norm", "norm", width=model.embed_dim))
    operators += pool_operators(model)
    operators += [operator(model, name, name) for name in present(model, "fc_norm")]
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model, "head"),
        width=model.embed_dim,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=grid,
        input_size=size,
        pooling=model.global_pool,
    )


def block_operators(model: nn.Module, index: int, block: nn.Module) -> list[Operator]:
    """The layers of one block.

    Raises:
        UnsupportedBackboneError: If it is of a kind without known roles.
    """
    if not isinstance(block, (EvaBlock, EvaBlockPostNorm)) or not isinstance(
        block.attn, (EvaAttention, AttentionRope)
    ):
        raise UnsupportedBackboneError(
            f"block {index} is a {type(block).__name__} with a {type(getattr(block, 'attn', None)).__name__}; "
            f"looked for timm's EvaBlock or EvaBlockPostNorm with EvaAttention or AttentionRope."
        )
    here = f"blocks.{index}"
    norm1, norm2 = (operator(model, f"{here}.{name}", f"{here}.{name}") for name in ("norm1", "norm2"))
    attention = attention_operators(model, f"{here}.attn", f"{here}.attn", block.attn)
    mlp = mlp_operators(model, f"{here}.mlp", f"{here}.mlp", block.mlp)
    if isinstance(block, EvaBlockPostNorm):
        return [*attention, norm1, *mlp, norm2]
    return [norm1, *attention, norm2, *mlp]

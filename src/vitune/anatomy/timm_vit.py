"""timm's `VisionTransformer` in all its uses.

Plain ViT, DeiT (with or without distillation token), CLIP (pre-norm), DINOv2 (register tokens), SigLIP (attention
pooling, no prefix token), average pooling with `fc_norm`, LayerScale, qkv without bias, gated MLPs, differential
attention, post-norm and parallel blocks, hybrids with a convolutional stem (which stays frozen and has no roles).
"""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.layers.hybrid_embed import HybridEmbed
from timm.models.vision_transformer import (
    Block as TimmBlock,
)
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
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
from vitune.anatomy.timm_newer import DiffAttention, DiffParallelScalingBlock
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-vit"
TIMM_FILES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "deit",
)  # where timm defines models of this family
LOOKED_FOR = "timm.models.vision_transformer.VisionTransformer"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, VisionTransformer)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a block, its attention or its MLP is of a kind without known roles.
    """
    assert isinstance(model, VisionTransformer)
    operators = _patch_operators(model)
    grid, size = image_of(model)
    operators += [operator(model, name, name) for name in present(model, "norm_pre")]
    blocks: list[Block] = []
    for i, block in enumerate(model.blocks):
        found, num_heads, attention = block_parts(model, i, block)
        operators += found
        blocks.append(Block(i, f"blocks.{i}", model.embed_dim, num_heads, attention))
    operators.append(operator(model, "norm", "norm", width=model.embed_dim))
    operators += pool_operators(model)
    operators += [operator(model, name, name) for name in present(model, "fc_norm")]
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model, "head", "head_dist"),
        width=model.embed_dim,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=grid,
        input_size=size,
        pooling=model.global_pool,
    )


def _patch_operators(model: VisionTransformer) -> list[Operator]:
    """The patch embedding; of a hybrid the projection behind its stem."""
    embed: Any = model.patch_embed
    if not isinstance(embed, HybridEmbed):
        return patch_operators(model)
    path = "patch_embed.proj"
    if isinstance(embed.proj, nn.Identity):  # the last convolution of the stem projects
        path = [f"patch_embed.{n}" for n, m in embed.named_modules() if isinstance(m, nn.Conv2d)][-1]
    return [operator(model, "patch_embed", path, layout="NCHW")]


def block_parts(model: nn.Module, index: int, block: Any) -> tuple[list[Operator], int, str]:
    """Operators, number of heads, and the path of the attention where there is one module of it."""
    here = f"blocks.{index}"
    if isinstance(block, (ParallelScalingBlock, DiffParallelScalingBlock)):
        return _scaling_operators(model, here, block), block.num_heads, ""
    if isinstance(block, ParallelThingsBlock):
        first: Any = block.attns[0]
        return _things_operators(model, here, block), first.attn.num_heads, ""
    if not isinstance(block, (TimmBlock, ResPostBlock)):
        raise UnsupportedBackboneError(
            f"block {index} is a {type(block).__name__}; looked for timm's Block, ResPostBlock, ParallelScalingBlock, "
            f"DiffParallelScalingBlock or ParallelThingsBlock."
        )
    part: Any = block.attn
    _check_attention(index, part)
    norm1, norm2 = (operator(model, f"{here}.{name}", f"{here}.{name}") for name in ("norm1", "norm2"))
    attention = attention_operators(model, f"{here}.attn", f"{here}.attn", part)
    mlp = mlp_operators(model, f"{here}.mlp", f"{here}.mlp", block.mlp)
    post_norm = isinstance(block, ResPostBlock)
    order = [*attention, norm1, *mlp, norm2] if post_norm else [norm1, *attention, norm2, *mlp]
    return order, part.num_heads, f"{here}.attn"


def _check_attention(index: int, attention: nn.Module) -> None:
    if not isinstance(attention, (Attention, DiffAttention)):
        raise UnsupportedBackboneError(
            f"the attention of block {index} is a {type(attention).__name__}; "
            f"looked for timm's Attention or DiffAttention."
        )


def _scaling_operators(model: nn.Module, here: str, block: Any) -> list[Operator]:
    """Attention and MLP side by side, of one projection: rows of the MLP, of q, k and v."""
    apart = (f"{here}.mlp_bias",) if block.mlp_bias is not None else ()
    found = [
        operator(model, f"{here}.norm1", f"{here}.in_norm"),
        operator(
            model,
            f"{here}.in",
            f"{here}.in_proj",
            parts=(f"{here}.mlp.in", *(f"{here}.attn.{name}" for name in "qkv")),
            sizes=tuple(block.in_split),
            biases=apart,
        ),
    ]
    found += [
        operator(model, f"{here}.attn.{name}", f"{here}.{name}")
        for name in present(block, "q_norm", "k_norm", "sub_norm")
    ]
    if getattr(block, "attn_out_proj", None) is None:
        return [*found, operator(model, f"{here}.out", f"{here}.out_proj")]
    return [
        *found,
        operator(model, f"{here}.attn.out", f"{here}.attn_out_proj"),
        operator(model, f"{here}.mlp.out", f"{here}.mlp_out_proj"),
    ]


def _things_operators(model: nn.Module, here: str, block: Any) -> list[Operator]:
    """Several attentions side by side, then several MLPs."""
    found: list[Operator] = []
    for i, branch in enumerate(block.attns):
        _check_attention(int(here.removeprefix("blocks.")), branch.attn)
        path, role = f"{here}.attns.{i}", f"{here}.parallel.{i}"
        found.append(operator(model, f"{role}.norm1", f"{path}.norm"))
        found += attention_operators(model, f"{role}.attn", f"{path}.attn", branch.attn)
    for i, branch in enumerate(block.ffns):
        path, role = f"{here}.ffns.{i}", f"{here}.parallel.{i}"
        found.append(operator(model, f"{role}.norm2", f"{path}.norm"))
        found += mlp_operators(model, f"{role}.mlp", f"{path}.mlp", branch.mlp)
    return found

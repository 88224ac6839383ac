"""timm's `VisionTransformer` in all its uses.

Plain ViT, DeiT (with or without distillation token), CLIP (pre-norm), DINOv2 (register tokens), SigLIP (attention
pooling, no prefix token), average pooling with `fc_norm`, LayerScale, qkv without bias, gated MLPs.
"""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-vit"
TIMM_FILES = ("vision_transformer", "deit")  # where timm defines models of this family
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
    blocks: list[Block] = []
    width = model.embed_dim
    if not isinstance(model.patch_embed, PatchEmbed):
        raise UnsupportedBackboneError(
            f"the patch embedding is a {type(model.patch_embed).__name__}; "
            f"looked for a PatchEmbed (hybrid ViTs with a convolutional stem are not supported)."
        )
    grid: Any = model.patch_embed.grid_size
    size: Any = model.patch_embed.img_size
    if grid is None or size is None:
        raise UnsupportedBackboneError("the model has no fixed image size; create it with img_size=...")
    operators = [operator(model, "patch_embed", "patch_embed.proj", layout="NCHW")]
    if not isinstance(model.patch_embed.norm, nn.Identity):
        operators.append(operator(model, "patch_embed.norm", "patch_embed.norm"))
    if not isinstance(model.norm_pre, nn.Identity):
        operators.append(operator(model, "norm_pre", "norm_pre"))
    for i, block in enumerate(model.blocks):
        operators += _block_operators(model, i, block)
        attention: Any = block.attn
        blocks.append(Block(i, f"blocks.{i}", width, attention.num_heads, f"blocks.{i}.attn"))
    operators.append(operator(model, "norm", "norm", width=width))
    if model.attn_pool is not None:
        operators += _pool_operators(model)
    if not isinstance(model.fc_norm, nn.Identity):
        operators.append(operator(model, "fc_norm", "fc_norm"))
    heads = [name for name in ("head", "head_dist") if isinstance(getattr(model, name, None), nn.Linear)]
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=tuple(heads),
        width=width,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=(int(grid[0]), int(grid[1])),
        input_size=(operators[0].in_features, int(size[0]), int(size[1])),
        pooling=model.global_pool,
    )


def _block_operators(model: nn.Module, index: int, block: nn.Module) -> list[Operator]:
    if not isinstance(block, TimmBlock):
        raise UnsupportedBackboneError(
            f"block {index} is a {type(block).__name__}; "
            f"looked for timm's Block with norm1, attn, norm2, mlp in sequence."
        )
    if not isinstance(block.attn, Attention):
        raise UnsupportedBackboneError(
            f"the attention of block {index} is a {type(block.attn).__name__}; looked for timm's Attention."
        )
    here = f"blocks.{index}"
    fused = tuple(f"{here}.attn.{name}" for name in "qkv")
    found = [
        operator(model, f"{here}.norm1", f"{here}.norm1"),
        operator(model, f"{here}.attn.qkv", f"{here}.attn.qkv", parts=fused),
    ]
    for name in ("q_norm", "k_norm", "norm"):
        if not isinstance(getattr(block.attn, name, nn.Identity()), nn.Identity):
            found.append(operator(model, f"{here}.attn.{name}", f"{here}.attn.{name}"))
    found += [
        operator(model, f"{here}.attn.out", f"{here}.attn.proj"),
        operator(model, f"{here}.norm2", f"{here}.norm2"),
    ]
    return found + _mlp_operators(model, here, block.mlp)


def _mlp_operators(model: nn.Module, here: str, mlp: nn.Module) -> list[Operator]:
    if isinstance(mlp, GluMlp):
        gate_and_value = (f"{here}.mlp.in", f"{here}.mlp.gate")
        order = gate_and_value if mlp.gate_last else gate_and_value[::-1]
        found = [operator(model, f"{here}.mlp.in_gate", f"{here}.mlp.fc1", parts=order)]
    elif isinstance(mlp, SwiGLU):
        found = [
            operator(model, f"{here}.mlp.gate", f"{here}.mlp.fc1_g"),
            operator(model, f"{here}.mlp.in", f"{here}.mlp.fc1_x"),
        ]
    elif isinstance(mlp, Mlp):
        found = [operator(model, f"{here}.mlp.in", f"{here}.mlp.fc1")]
    else:
        raise UnsupportedBackboneError(
            f"the MLP of {here} is a {type(mlp).__name__}; looked for timm's Mlp, GluMlp or SwiGLU."
        )
    if not isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity):
        found.append(operator(model, f"{here}.mlp.norm", f"{here}.mlp.norm"))
    return [*found, operator(model, f"{here}.mlp.out", f"{here}.mlp.fc2")]


def _pool_operators(model: VisionTransformer) -> list[Operator]:
    pool = model.attn_pool
    if not isinstance(pool, AttentionPoolLatent):
        raise UnsupportedBackboneError(
            f"the pooling is a {type(pool).__name__}; looked for timm's AttentionPoolLatent, a class token or averages."
        )
    found = []
    if isinstance(pool.q, nn.Linear):
        found.append(operator(model, "pool.q", "attn_pool.q"))
    found += [
        operator(model, "pool.kv", "attn_pool.kv", parts=("pool.k", "pool.v")),
        operator(model, "pool.out", "attn_pool.proj"),
    ]
    if pool.mlp is not None:
        if not isinstance(pool.norm, nn.Identity):
            found.append(operator(model, "pool.norm", "attn_pool.norm"))
        found.append(operator(model, "pool.mlp.in", "attn_pool.mlp.fc1"))
        found.append(operator(model, "pool.mlp.out", "attn_pool.mlp.fc2"))
    return found

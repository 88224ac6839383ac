"""timm's `NaFlexVit`: a ViT for patches of images of any shape, here used on images of one size.

Patches are embedded by a linear layer. The size is the one it was made with (`img_size`), else that of its weights.
"""

from __future__ import annotations

from typing import Any

from timm.models.eva import EvaBlock
from timm.models.naflexvit import NaFlexVit
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.anatomy._timm import heads, pool_operators, present
from vitune.anatomy.timm_eva import block_operators
from vitune.anatomy.timm_vit import block_parts

FAMILY = "timm-naflex"
TIMM_FILES = ("naflexvit",)
LOOKED_FOR = "timm.models.naflexvit.NaFlexVit"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, NaFlexVit)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a block, its attention or its MLP is of a kind without known roles.
    """
    assert isinstance(model, NaFlexVit)
    embeds: Any = model.embeds
    width = model.embed_dim
    layout = "NCHW" if isinstance(embeds.proj, nn.Conv2d) else "NLC"
    operators: list[Operator] = [operator(model, "patch_embed", "embeds.proj", layout=layout)]
    operators += [operator(model, f"patch_embed.{n}", f"embeds.{n}") for n in present(embeds, "norm")]
    operators += [operator(model, name, name) for name in present(model, "norm_pre")]
    blocks: list[Block] = []
    for i, block in enumerate(model.blocks):
        if isinstance(block, EvaBlock):
            attend: Any = block.attn
            found, num_heads = block_operators(model, i, block), int(attend.num_heads)
            attention = f"blocks.{i}.attn"
        else:
            found, num_heads, attention = block_parts(model, i, block)
        operators += found
        blocks.append(Block(i, f"blocks.{i}", width, num_heads, attention))
    operators.append(operator(model, "norm", "norm", width=width))
    operators += pool_operators(model)
    operators += [operator(model, name, name) for name in present(model, "fc_norm")]
    size, patch = _image_size(model), embeds.patch_size
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model, "head"),
        width=width,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=(size[1] // int(patch[0]), size[2] // int(patch[1])),
        input_size=size,
        pooling=str(model.global_pool),
    )


def _image_size(model: Any) -> tuple[int, int, int]:
    channels, height, width = model.pretrained_cfg["input_size"]
    given = (getattr(model, "_model_args", None) or {}).get("img_size")
    if given is not None:
        height, width = given if isinstance(given, (tuple, list)) else (given, given)
    return int(channels), int(height), int(width)

"""transformers' `ConvNextModel` and `ConvNextForImageClassification`.

Roles as of timm's ConvNeXt: `dwconv`, `norm`, `mlp.in`, `mlp.out` of a block, with the blocks numbered through all
stages; `downsample.S.norm` and `downsample.S.conv` in front of stage S. `norm` lies behind the pooling.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, first, has, heads, is_one_of, pair
from vitune.anatomy._roles import Anatomy, Block, Layout

FAMILY = "hf-convnext"
TIMM_FILES = ()
LOOKED_FOR = "transformers ConvNextModel or ConvNextForImageClassification"

# role -> path inside a block, layout of its output
BLOCK: dict[str, tuple[str, Layout]] = {
    "dwconv": ("dwconv", "NCHW"),
    "norm": ("layernorm", "NLC"),
    "mlp.in": ("pwconv1", "NLC"),
    "mlp.out": ("pwconv2", "NLC"),
}


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "convnext", "ConvNextModel", "ConvNextForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "convnext")
    config: Any = model.config
    operators = [
        operator(model, role, first(model, f"{base}embeddings.{name}"), layout="NCHW")
        for role, name in (("patch_embed", "patch_embeddings"), ("patch_embed.norm", "layernorm"))
    ]
    blocks: list[Block] = []
    for stage, (depth, width) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
        here = f"{base}encoder.stages.{stage}"
        if has(model, f"{here}.downsampling_layer.1"):
            operators += [
                operator(model, f"downsample.{stage}.{role}", f"{here}.downsampling_layer.{i}", layout="NCHW")
                for i, role in enumerate(("norm", "conv"))
            ]
        for i in range(depth):
            index, path = len(blocks), f"{here}.layers.{i}"
            operators += [
                operator(model, f"blocks.{index}.{role}", first(model, f"{path}.{name}"), layout=layout)
                for role, (name, layout) in BLOCK.items()
            ]
            blocks.append(Block(index, path, width, 0, "", stage))
    operators.append(operator(model, "norm", first(model, f"{base}layernorm")))
    height, width = pair(config.image_size)
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model),
        width=config.hidden_sizes[-1],
        num_prefix_tokens=0,
        grid=(height // config.patch_size, width // config.patch_size),
        input_size=(config.num_channels, height, width),
        pooling="avg",
    )

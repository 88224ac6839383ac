"""transformers' `SwinModel` and `SwinForImageClassification`.

Blocks are numbered through all stages; `downsample.S.norm` and `downsample.S.reduction` lie in front of stage S, as in
timm, though transformers keeps them at the end of the stage before. Tensors between the layers are (B, N, channels).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, first, grid_of, has, heads, is_one_of, layer_operators, pair
from vitune.anatomy._roles import Anatomy, Block

FAMILY = "hf-swin"
TIMM_FILES = ()
LOOKED_FOR = "transformers SwinModel or SwinForImageClassification"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "swin", "SwinModel", "SwinForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "swin")
    config: Any = model.config
    embeddings, stages = f"{base}embeddings", f"{base}encoder.layers"
    operators = [
        operator(
            model, "patch_embed", first(model, f"{embeddings}.patch_embeddings.projection"), layout="NCHW"
        ),
        operator(model, "patch_embed.norm", first(model, f"{embeddings}.norm")),
    ]
    blocks: list[Block] = []
    for stage, depth in enumerate(config.depths):
        for i in range(depth):
            index, path = len(blocks), f"{stages}.{stage}.blocks.{i}"
            operators += layer_operators(model, f"blocks.{index}", path)
            width = config.embed_dim * 2**stage
            blocks.append(Block(index, path, width, config.num_heads[stage], f"{path}.attention", stage))
        if has(model, f"{stages}.{stage}.downsample.reduction"):
            operators += [
                operator(model, f"downsample.{stage + 1}.{name}", f"{stages}.{stage}.downsample.{name}")
                for name in ("norm", "reduction")
            ]
    operators.append(operator(model, "norm", first(model, f"{base}layernorm")))
    names = {name for name, _ in model.named_parameters()}
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model),
        width=config.embed_dim * 2 ** (len(config.depths) - 1),
        num_prefix_tokens=0,
        grid=grid_of(config),
        input_size=(config.num_channels, *pair(config.image_size)),
        pooling="avg",
        unused=tuple({f"{embeddings}.mask_token"} & names),
    )

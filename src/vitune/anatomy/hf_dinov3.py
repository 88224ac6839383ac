"""transformers' `DINOv3ViTModel`: rotary positions, register tokens, LayerScale; there is no classifier for it."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import describe_encoder, first, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-dinov3"
TIMM_FILES = ()
LOOKED_FOR = "transformers DINOv3ViTModel"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "dinov3_vit", "DINOv3ViTModel")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    config: Any = model.config
    return describe_encoder(
        model,
        FAMILY,
        "",
        config=config,
        before=[operator(model, "patch_embed", first(model, "embeddings.patch_embeddings"), layout="NCHW")],
        after=[operator(model, "norm", first(model, "norm"))],
        num_prefix_tokens=1 + config.num_register_tokens,
        pooling="token",
        unused=("embeddings.mask_token",),
    )

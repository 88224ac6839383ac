"""transformers' `ViTModel` and `ViTForImageClassification`: separate query, key and value layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-vit"
TIMM_FILES = ()
LOOKED_FOR = "transformers ViTModel or ViTForImageClassification"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "vit", "ViTModel", "ViTForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "vit")
    config: Any = model.config
    before = [
        operator(
            model, "patch_embed", first(model, f"{base}embeddings.patch_embeddings.projection"), layout="NCHW"
        )
    ]
    after = [operator(model, "norm", first(model, f"{base}layernorm"))]
    if getattr(model, "pooler", None) is not None:
        after.append(operator(model, "pool.out", "pooler.dense"))
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config,
        before=before,
        after=after,
        num_prefix_tokens=1,
        pooling="token",
        unused=(f"{base}embeddings.mask_token",),
    )

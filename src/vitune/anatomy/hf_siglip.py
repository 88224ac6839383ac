"""The vision tower of transformers' SigLIP: `SiglipVisionModel` and `SiglipForImageClassification`.

No class token. The bare tower pools with attention (an `nn.MultiheadAttention`, whose projections cannot be edited and
have no roles); the classifier reads the mean of the tokens and leaves that pooling unused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, has, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-siglip"
TIMM_FILES = ()
LOOKED_FOR = "transformers SiglipVisionModel or SiglipForImageClassification"

POOL = {"pool.norm": "layernorm", "pool.mlp.in": "mlp.fc1", "pool.mlp.out": "mlp.fc2"}


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "siglip", "SiglipVisionModel", "SiglipForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "vision_model")
    config: Any = model.config
    classifies = is_one_of(model, "siglip", "SiglipForImageClassification")
    after = [operator(model, "norm", first(model, f"{base}post_layernorm"))]
    pools = not classifies and has(model, f"{base}head")
    if pools:
        after += [operator(model, role, f"{base}head.{path}") for role, path in POOL.items()]
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config.vision_config if classifies else config,
        before=[
            operator(model, "patch_embed", first(model, f"{base}embeddings.patch_embedding"), layout="NCHW")
        ],
        after=after,
        num_prefix_tokens=0,
        pooling="map" if pools else "avg",
        unused=() if pools else (f"{base}head",),
    )

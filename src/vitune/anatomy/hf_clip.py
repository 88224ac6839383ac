"""The vision tower of transformers' CLIP: `CLIPVisionModel` and `CLIPForImageClassification`.

A norm in front of the layers; the one behind them acts on the pooled class token of the bare tower only: the classifier
reads the mean of the patch tokens without it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-clip"
TIMM_FILES = ()
LOOKED_FOR = "transformers CLIPVisionModel or CLIPForImageClassification"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "clip", "CLIPVisionModel", "CLIPForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "vision_model")
    config: Any = model.config
    classifies = is_one_of(model, "clip", "CLIPForImageClassification")
    last = first(model, f"{base}post_layernorm")
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config.vision_config if classifies else config,
        before=[
            operator(model, "patch_embed", first(model, f"{base}embeddings.patch_embedding"), layout="NCHW"),
            operator(model, "norm_pre", first(model, f"{base}pre_layrnorm")),  # so spelt
        ],
        after=[] if classifies else [operator(model, "norm", last)],
        num_prefix_tokens=1,
        pooling="avg" if classifies else "token",
        unused=(last,) if classifies else (),
    )

"""transformers' DeiT: `DeiTModel`, `DeiTForImageClassification`, `DeiTForImageClassificationWithTeacher`.

A class token and a distillation token; with a teacher's classifier each token has a classifier of its own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-deit"
TIMM_FILES = ()
LOOKED_FOR = "transformers DeiTModel or DeiTForImageClassification (also WithTeacher)"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    classes = ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
    return is_one_of(model, "deit", *classes)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "deit")
    config: Any = model.config
    patch = first(model, f"{base}embeddings.patch_embeddings.projection")
    after = [operator(model, "norm", first(model, f"{base}layernorm"))]
    if getattr(model, "pooler", None) is not None:
        after.append(operator(model, "pool.out", "pooler.dense"))
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config,
        before=[operator(model, "patch_embed", patch, layout="NCHW")],
        after=after,
        num_prefix_tokens=2,
        pooling="token",
        unused=(f"{base}embeddings.mask_token",),
    )

"""transformers' `BeitModel` and `BeitForImageClassification`: relative positions, LayerScale, keys without bias."""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, has, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-beit"
TIMM_FILES = ()
LOOKED_FOR = "transformers BeitModel or BeitForImageClassification"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "beit", "BeitModel", "BeitForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "beit")
    config: Any = model.config
    patch = first(model, f"{base}embeddings.patch_embeddings.projection")
    after = [operator(model, "norm", first(model, f"{base}layernorm"), width=config.hidden_size)]
    if has(model, f"{base}pooler.layernorm"):
        after.append(operator(model, "fc_norm", f"{base}pooler.layernorm"))
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config,
        before=[operator(model, "patch_embed", patch, layout="NCHW")],
        after=after,
        num_prefix_tokens=1,
        pooling="avg" if config.use_mean_pooling else "token",
        unused=(f"{base}embeddings.mask_token",),
    )

"""transformers' DINOv2, with and without registers: `Dinov2[WithRegisters]Model` and `...ForImageClassification`.

LayerScale, an MLP or a gated MLP; the classifier reads the class token beside the mean of the patch tokens.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import base_of, describe_encoder, first, is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-dinov2"
TIMM_FILES = ()
LOOKED_FOR = "transformers Dinov2Model or Dinov2ForImageClassification (also WithRegisters)"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    with_registers = ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification")
    return is_one_of(model, "dinov2", "Dinov2Model", "Dinov2ForImageClassification") or is_one_of(
        model, "dinov2_with_registers", *with_registers
    )


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    base = base_of(model, "dinov2", "dinov2_with_registers")
    config: Any = model.config
    patch = first(model, f"{base}embeddings.patch_embeddings.projection")
    return describe_encoder(
        model,
        FAMILY,
        base,
        config=config,
        before=[operator(model, "patch_embed", patch, layout="NCHW")],
        after=[operator(model, "norm", first(model, f"{base}layernorm"))],
        num_prefix_tokens=1 + getattr(config, "num_register_tokens", 0),
        pooling="token+avg" if base else "token",
        unused=(f"{base}embeddings.mask_token",),
    )

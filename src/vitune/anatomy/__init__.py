"""Anatomy: what a backbone is made of, as data. One file per family."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitune.anatomy import (
    as_mlp,
    hf_beit,
    hf_clip,
    hf_convnext,
    hf_deit,
    hf_dinov2,
    hf_dinov3,
    hf_llama,
    hf_siglip,
    hf_swin,
    hf_timm,
    hf_vit,
    timm_beit,
    timm_cnn,
    timm_convnext,
    timm_eva,
    timm_mixer,
    timm_naflex,
    timm_swin,
    timm_vit,
)
from vitune.anatomy._refused import reason
from vitune.anatomy._roles import (
    ALL_CONV,
    ALL_LINEAR,
    Anatomy,
    Block,
    Kind,
    Layout,
    Operator,
    Slot,
    short_name,
)
from vitune.anatomy._tree import tree
from vitune.errors import UnsupportedBackboneError

__all__ = ["ALL_CONV", "ALL_LINEAR", "FAMILIES", "Anatomy", "Block", "Kind", "Layout", "Operator", "Slot"]
__all__ += ["anatomy", "example", "logits", "short_name", "tree"]

_FILES = (
    timm_vit,
    timm_swin,
    timm_convnext,
    timm_mixer,
    timm_cnn,
    as_mlp,
    timm_eva,
    timm_beit,
    timm_naflex,
    hf_vit,
    hf_deit,
    hf_dinov2,
    hf_dinov3,
    hf_beit,
    hf_clip,
    hf_siglip,
    hf_swin,
    hf_convnext,
    hf_timm,
    hf_llama,
)
FAMILIES = {family.FAMILY: family for family in _FILES}


def anatomy(model: nn.Module) -> Anatomy:
    """Find the family of a backbone and name its parts by role.

    Args:
        model: A timm or transformers model; edits already made on it do not matter.

    Raises:
        UnsupportedBackboneError: If no family matches; names the reason, or what was looked for.
    """
    for family in FAMILIES.values():
        if family.matches(model):
            return family.describe(model)
    if why := reason(model):
        raise UnsupportedBackboneError(f"{type(model).__name__} is not supported: {why}.")
    looked_for = "; ".join(family.LOOKED_FOR for family in FAMILIES.values())
    raise UnsupportedBackboneError(
        f"no known backbone family matches {type(model).__name__}; looked for: {looked_for}."
    )


def example(found: Anatomy, batch: int = 1) -> Tensor:
    """An input to try a model with, the same every time: what it computes from it must depend on every layer.

    Args:
        found: The anatomy.
        batch: B.

    Returns:
        Images (B, channels, height, width) of random numbers in the model's type, or token ids (B, 8), on its device.
    """
    like = next(p for p in found.model.parameters() if p.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    if found.vocabulary:
        return torch.randint(found.vocabulary, (batch, 8), generator=generator).to(like.device)
    images = torch.randn(batch, *found.input_size, generator=generator)
    return images.to(device=like.device, dtype=like.dtype)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores, whatever the library wraps them in.

    Args:
        model: A backbone of a known family (or one wrapped for data parallel).
        images: (B, channels, height, width); of a model of text token ids (B, N).

    Returns:
        (B, C) scores; pooled features (B, D) where the model has no head; (B, N, V) scores of a language model.
    """
    output = model(images)
    for name in ("logits", "pooler_output"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if getattr(output, "last_hidden_state", None) is not None:
        return output.last_hidden_state[:, 0]
    # A distilled model in training mode returns (class token scores, distillation token scores).
    return (output[0] + output[1]) / 2 if isinstance(output, tuple) else output

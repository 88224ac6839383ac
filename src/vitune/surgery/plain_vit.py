"""The parts of a plain ViT's forward pass as functions, for an edit that replaces the whole of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitune.errors import UnsupportedBackboneError


def check_plain_vit(model: nn.Module, who: str) -> None:
    """Find out whether the functions below know a model.

    Args:
        model: The model.
        who: The method that asks, for the message.

    Raises:
        UnsupportedBackboneError: If they do not.
    """
    if not isinstance(model, VisionTransformer) and not _is_transformers_vit(model):
        raise UnsupportedBackboneError(
            f"{who}: {type(model).__name__} is not supported; it is defined for plain ViTs: looked for timm's "
            f"VisionTransformer and transformers' ViTForImageClassification."
        )


def embed(model: Any, images: Tensor) -> tuple[Tensor, tuple[int, int], Iterable[nn.Module]]:
    """What enters the first block.

    Args:
        model: The model, edited or not.
        images: (B, channels, height, width).

    Returns:
        Tokens (B, prefix + N, D), the grid of the N patches, and the blocks.
    """
    if isinstance(model, VisionTransformer):
        size: Any = model.patch_embed.patch_size
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        blocks: Iterable[nn.Module] = model.blocks
    else:
        size = model.vit.embeddings.patch_embeddings.patch_size
        tokens, blocks = model.vit.embeddings(images), model.vit.layers
    # Rounded up: a model that pads images to whole patches has one patch more.
    return tokens, (-(-images.shape[-2] // size[0]), -(-images.shape[-1] // size[1])), blocks


def classify(model: Any, features: Tensor) -> Tensor:
    """Scores (B, C) of what the head reads, with the head's dropout."""
    if isinstance(model, VisionTransformer):
        return model.head(model.head_drop(features))
    return model.classifier(features)


def as_output(model: nn.Module, logits: Tensor, labels: Tensor | None = None) -> Any:
    """Scores as the model's library gives them."""
    if isinstance(model, VisionTransformer):
        return logits
    from transformers.modeling_outputs import ImageClassifierOutput

    loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
    return ImageClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


def _is_transformers_vit(model: nn.Module) -> bool:
    return any(cls.__name__ == "ViTForImageClassification" for cls in type(model).__mro__)

"""Registration of the built-in backbone with timm, so that `timm.create_model` makes it like any other."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from vitune.backbones.card import BUILT_IN, read_card

_CARD = read_card()

# timm's register_model looks for this name in the module of the function it registers.
default_cfgs = generate_default_cfgs(
    {
        BUILT_IN: {
            "file": str(_CARD.weights),
            "num_classes": _CARD.num_classes,
            "input_size": tuple(_CARD.input["size"]),
            "mean": tuple(_CARD.input["mean"]),
            "std": tuple(_CARD.input["std"]),
            "interpolation": _CARD.input["interpolation"],
            "crop_pct": _CARD.input["crop_pct"],
            "fixed_input_size": True,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "imagenet-research",
        }
    }
)


@register_model
def vitune_vit_nano_patch8_64(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A small plain ViT for 64 px images, pre-trained on Tiny ImageNet.

    Args:
        pretrained: Whether to load the weights that come with the package.
        **kwargs: Arguments of timm's VisionTransformer, in place of the card's.
    """
    arguments = {"num_classes": _CARD.num_classes, **_CARD.architecture, **kwargs}
    return build_model_with_cfg(
        VisionTransformer,
        BUILT_IN,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": arguments.pop("out_indices", 3), "feature_cls": "getter"},
        **arguments,
    )

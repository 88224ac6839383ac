"""Backbones that are refused by name, and why; what is not here is refused with the list of known families."""

from __future__ import annotations

from torch import nn

_HEAD_MIXING = (
    "its talking heads mix attention across heads, and its last blocks attend from the class token alone"
)
_CHANNELS = "its attention runs across channels, so no token attends to a token"
_UNITS = "its tokens are reordered into mask units and its blocks pool queries, so tokens have no fixed place"
_POOLED = "its attention pools keys and values inside the block, so layers see different tokens"
_SPATIAL = "its blocks alternate kinds of attention whose layers have no common roles"
_MASKED = "its forward hides random patches, so its output is no function of the image"
_HYBRID = "its stages mix convolutions and attention whose layers have no common roles"

# Class name -> reason.
REFUSED = {
    "Cait": _HEAD_MIXING,
    "Xcit": _CHANNELS,
    "DaVit": _CHANNELS,
    "Hiera": _UNITS,
    "HieraModel": _UNITS,
    "HieraForImageClassification": _UNITS,
    "MultiScaleVit": _POOLED,
    "PyramidVisionTransformerV2": _POOLED,
    "PvtV2Model": _POOLED,
    "Twins": _SPATIAL,
    "MaxxVit": _HYBRID,
    "Levit": _HYBRID,
    "CoaT": _HYBRID,
    "TinyVit": _HYBRID,
    "EfficientFormer": _HYBRID,
    "EfficientFormerV2": _HYBRID,
    "MetaFormer": _HYBRID,
    "ViTMAEModel": _MASKED,
    "ViTMAEForPreTraining": _MASKED,
}


def reason(model: nn.Module) -> str:
    """Why a model is refused, or an empty text where nobody wrote it down."""
    return next((REFUSED[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in REFUSED), "")

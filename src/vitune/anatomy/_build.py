"""Small pieces that family files share: reading a layer as an operator."""

from __future__ import annotations

from itertools import accumulate

from torch import nn

from vitune.anatomy._roles import Kind, Layout, Operator
from vitune.errors import UnsupportedBackboneError

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM_WORDS = ("Norm",)


def kind_of(module: nn.Module) -> Kind | None:
    """What a layer computes, or None where it is not an operator."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, _CONVS):
        return "conv"
    if isinstance(module, nn.Identity):
        return "identity"
    weight = getattr(module, "weight", None)
    if (
        any(word in cls.__name__ for cls in type(module).__mro__ for word in _NORM_WORDS)
        and weight is not None
    ):
        return "norm"
    return None


def operator(
    model: nn.Module,
    role: str,
    path: str,
    *,
    width: int | None = None,
    layout: Layout = "NLC",
    parts: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    biases: tuple[str, ...] = (),
) -> Operator:
    """Describe the layer at a path.

    Args:
        model: The model.
        role: Its role.
        path: Where it is.
        width: Channels, for layers that do not say (an identity in place of a norm).
        layout: Layout of its output.
        parts: Roles of row slices of its output, in order.
        sizes: Rows of each part, where they are not equal.
        biases: Names of its bias parameters, where they are kept apart from it.

    Raises:
        UnsupportedBackboneError: If the layer is none of linear, convolution, norm, identity.
    """
    module = model.get_submodule(path)
    kind = kind_of(module)
    if kind is None:
        raise UnsupportedBackboneError(
            f"the layer at '{path}' ({role}) is a {type(module).__name__}; "
            f"looked for a linear layer, a convolution or a norm with a weight."
        )
    if isinstance(module, nn.Linear):
        fan_in, fan_out = module.in_features, module.out_features
    elif isinstance(module, _CONVS):
        fan_in, fan_out = module.in_channels, module.out_channels
    elif kind == "norm":
        fan_in = fan_out = int(module.weight.shape[0])  # type: ignore[index, union-attr]
    else:
        if width is None:
            raise UnsupportedBackboneError(
                f"the width of the identity layer at '{path}' ({role}) is unknown."
            )
        fan_in = fan_out = width
    sizes = sizes or (fan_out // len(parts),) * len(parts) if parts else ()
    ends = tuple(accumulate(sizes))
    slices = {part: slice(end - size, end) for part, size, end in zip(parts, sizes, ends, strict=True)}
    return Operator(role, path, kind, fan_in, fan_out, layout, slices, biases)


def input_size(model: nn.Module, channels: int) -> tuple[int, int, int]:
    """The image that a fully convolutional model, which takes any size, was made for: (channels, height, width).

    Args:
        model: A timm model.
        channels: Channels of its first layer.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    _, height, width = config.get("input_size", (channels, 224, 224))
    return channels, int(height), int(width)

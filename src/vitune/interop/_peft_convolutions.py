"""Updates of convolutions in PEFT's form: A is a convolution to the rank, B a 1x1 convolution from it.

For a plain convolution that is the update of its kernel that we have. PEFT's A knows neither dilation nor groups, so
that a dilated layer fails there, and in a grouped one every output reads all inputs: another function, which cannot be
merged.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitune.errors import AdapterError


def require_plain(module: nn.Module, path: str) -> None:
    """Complain about a convolution that PEFT's LoRA does not update as we do.

    Args:
        module: The convolution.
        path: Where it is.

    Raises:
        AdapterError: If it has groups, dilation or padding other than zeros.
    """
    layer: Any = module
    odd = [f"{layer.groups} groups"] if layer.groups > 1 else []
    odd += [f"dilation {max(layer.dilation)}"] if max(layer.dilation) > 1 else []
    odd += [f"padding '{layer.padding_mode}'"] if layer.padding_mode != "zeros" else []
    if odd:
        raise AdapterError(
            f"PEFT's LoRA of the convolution '{path}' is not an update of its kernel, since the layer has "
            f"{' and '.join(odd)}; leave this layer out, or merge the adapter instead of exporting it."
        )


def as_kernels(module: nn.Module, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Ours in PEFT's shapes.

    Args:
        module: The convolution.
        down: A (R, C_in * h * w).
        up: B (C_out, R).

    Returns:
        A (R, C_in, h, w) and B (C_out, R, 1, 1).
    """
    layer: Any = module
    return down.unflatten(1, layer.weight.shape[1:]), up[:, :, None, None]


def as_matrices(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `as_kernels`; matrices stay as they are."""
    return down.flatten(1), up.flatten(1)

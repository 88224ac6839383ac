"""Copies of layers and backbones: for PEFT to work on, and to try a merge on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitune.methods.hf_peft.starts import taken_from
from vitune.surgery import bias_of, parts_of

ADAPTER = "default"


def copy_with_own(model: nn.Module, paths: Sequence[str], device: str | None = None) -> nn.Module:
    """A copy with parameters of its own at the paths; all others are shared, frozen.

    Args:
        model: The backbone.
        paths: Layers.
        device: Where these parameters are to be, as zeros; None: where they are, with their values.
    """
    own = {id(p) for path in paths for p in model.get_submodule(path).parameters(recurse=False)}
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if id(tensor) not in own:
            memo[id(tensor)] = _like(tensor, tensor.detach())
        elif device is not None:
            memo[id(tensor)] = _like(tensor, torch.zeros_like(tensor, device=device))
    return copy.deepcopy(model, memo)


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value


def frozen_as_buffers(layer: nn.Module) -> None:
    """Make buffers of the parameters that PEFT freezes: here every parameter of a new layer trains."""
    for module in layer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                del module._parameters[name]
                module.register_buffer(name, parameter.detach())


def plain_copy(module: nn.Module, layer: nn.Module) -> nn.Module:
    """A copy of a module as PEFT's layer, which wraps it, was given it: below all edits, less what its start took."""
    base, _ = parts_of(module)
    twin = base.__new__(base)
    nn.Module.__init__(twin)
    fixed = {n: v for n, v in vars(module).items() if not n.endswith("_hooks") and not n.startswith("_")}
    vars(twin).update(fixed)
    for name, parameter in module._parameters.items():
        value = None if parameter is None else nn.Parameter(parameter.detach().clone())
        twin.register_parameter(name, value)
    if "bias" in twin._parameters and (bias := bias_of(module)) is not None:
        twin.register_parameter("bias", nn.Parameter(bias.detach().clone()))  # wherever it is kept
    for name, buffer in module._buffers.items():
        twin.register_buffer(name, None if buffer is None else buffer.clone())
    if (taken := taken_from(layer)) is not None:
        with torch.no_grad():
            twin.get_parameter("weight").sub_(taken.difference())
    return twin


def with_base(layer: Any, base: nn.Module) -> Any:
    """A copy of PEFT's layer round another layer."""
    twin = copy.deepcopy(layer, {id(vars(layer)["base_layer"]): base})
    del vars(twin)["base_layer"]
    twin.base_layer = base
    return twin


def merge_tried(layer: nn.Module, plain: nn.Module) -> Any:
    """The plain layer with PEFT's layer merged into it; None where PEFT cannot."""
    twin = with_base(layer, plain)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            twin.merge(adapter_names=[ADAPTER])
    except Exception:  # every type has its own way of saying no
        return None
    return twin.get_base_layer()


def example_input(layer: Any) -> Tensor | None:
    """Something to compute with, the same each time; None for a layer of an unknown kind."""
    like = next(layer.parameters(), None)
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (3, layer.in_features)
    elif isinstance(layer, nn.Conv2d):
        shape = (2, layer.in_channels, *(3 * size for size in layer.kernel_size))
    elif isinstance(layer, nn.LayerNorm):
        shape = (3, *layer.normalized_shape)
    else:
        return None
    assert like is not None
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(device=like.device, dtype=like.dtype)

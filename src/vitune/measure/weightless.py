"""Running a model without its memory: shapes, types and storages only."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)

from vitune.errors import ConfigError, UnsupportedBackboneError

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def weightless_copy(model: Module, *, device: str | torch.device | None = None) -> Iterator[Module]:
    """A copy of a model that holds no memory, and a context in which every new tensor holds none either.

    The tensors are fake ones: they live on the meta device but say that they are on a real one, so autocast
    and the choice of the attention kernel are those of a real run. (Plain meta tensors take the unfused
    attention, which keeps the N x N probabilities: 271 instead of 229 MiB for a ViT-Ti/16 at batch 8.)
    Inputs must be made inside the context. The model itself is neither changed nor copied in memory.

    Args:
        model: Any module; edits by class swap are kept in the copy.
        device: Where the copy says it is. If not given, where the model is; a model on the meta device says
            `cpu`.

    Yields:
        The copy. Its tensors must not leave the context.

    Raises:
        ConfigError: If the device is CUDA and there is none: its kernels could only be guessed.
        UnsupportedBackboneError: If the model's forward depends on values of tensors, which do not exist
            here.
    """
    owned = [*model.parameters(), *model.buffers()]
    place = torch.device(device) if device is not None else _said_device(owned)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "The cost on CUDA can only be counted where there is a CUDA device; count for 'cpu' instead."
        )
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        memo: dict[int, Any] = {id(t): _pretend(t, place) for t in owned if t.device != place}
    with FakeCopyMode(mode):
        twin = copy.deepcopy(model, memo)
    try:
        with mode:
            yield twin
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} cannot be measured without running it, since its computation depends on "
            f"values of tensors ({error}); measure the real model with saved_activation_bytes or peak_memory."
        ) from error


def _said_device(owned: list[Tensor]) -> torch.device:
    first = owned[0].device if owned else torch.device("cpu")
    return torch.device("cpu") if first.type == "meta" else first


def _pretend(tensor: Tensor, place: torch.device) -> Tensor:
    """A fake of the same shape, strides and type elsewhere. Runs under the fake mode."""
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=place)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake

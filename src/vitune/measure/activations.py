"""The bytes that autograd keeps from the forward for the backward, exactly.

The rules, each learnt from a wrong number:

- A saved view keeps its whole storage alive, and many saved tensors share one: count storages once, at
  their full size.
- Parameters and buffers are there anyway: they do not count.
- The storages are held until the count is done, or an address freed in between would be used again and be
  missed.
- Storages are told apart by identity, not by address: on the meta device every address is 0.
- What a custom `autograd.Function` stores as `ctx.x = tensor` is invisible to the hooks. Use
  `save_for_backward`; `vitune.measure.live_bytes` counts by another way and finds such tensors.
- Under gradient checkpointing this is what is kept at the end of the forward, not what the backward builds
  again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class SavedTensor:
    """One storage that is kept for the backward, as the first tensor that brought it in.

    Attributes:
        bytes: Size of the storage.
        shape: Shape of that tensor, which may be a small view of the storage.
        dtype: Its type, for instance `float32`.
        times: How often the storage was saved.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: str
    times: int


@dataclass(frozen=True)
class SavedActivations:
    """What one forward keeps for the backward.

    Attributes:
        bytes: Sum over all storages.
        tensors: The storages, largest first.
    """

    bytes: int
    tensors: tuple[SavedTensor, ...]

    @property
    def mebibytes(self) -> float:
        """`bytes` in units of 2^20."""
        return self.bytes / 2**20


def saved_activation_bytes(
    model: nn.Module, forward_loss: Callable[[nn.Module], Tensor], *, ignore: Iterable[Tensor] = ()
) -> SavedActivations:
    """Count the bytes that a forward keeps for its backward.

    The forward really runs, with what that entails (dropout draws numbers, BatchNorm moves its statistics).
    To count without memory and side effects, use a weightless copy:
    `with weightless_copy(model) as twin: saved_activation_bytes(twin, forward_loss)`.

    Args:
        model: The model whose parameters and buffers do not count.
        forward_loss: Gets the model, makes the inputs, returns the loss.
        ignore: Further tensors that do not count, for instance constants that are no buffers.
    """
    ignored = {key for tensor in _owned(model, ignore) for key, _ in _storages(tensor)}
    held: list[torch.UntypedStorage] = []
    kept: dict[int, SavedTensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        for key, storage in _storages(tensor):
            held.append(storage)
            if key in ignored:
                continue
            before = kept.get(key)
            kept[key] = (
                SavedTensor(before.bytes, before.shape, before.dtype, before.times + 1)
                if before
                else SavedTensor(storage.nbytes(), tuple(tensor.shape), str(tensor.dtype)[len("torch.") :], 1)
            )
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        forward_loss(model)
    tensors = sorted(kept.values(), key=lambda saved: -saved.bytes)
    return SavedActivations(sum(saved.bytes for saved in tensors), tuple(tensors))


def _owned(model: nn.Module, others: Iterable[Tensor]) -> list[Tensor]:
    return [*model.parameters(), *model.buffers(), *others]


def _storages(tensor: Tensor) -> list[tuple[int, torch.UntypedStorage]]:
    """The storages below a tensor with their identities; a sparse one has two."""
    parts = [tensor._indices(), tensor._values()] if tensor.layout is torch.sparse_coo else [tensor]
    return [(storage._cdata, storage) for part in parts for storage in [part.untyped_storage()]]

"""The second way to count activations: which storages are alive, watched operation by operation.

It finds what the hooks of `saved_activation_bytes` cannot see (tensors that a custom Function keeps as
`ctx.x`), and the peak with all temporaries. On a weightless copy it costs no memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class LiveBytes:
    """Bytes of live tensors in one forward and backward, without parameters, buffers and the inputs that
    are ignored.

    Attributes:
        after_forward: What stays alive between forward and backward, the loss itself included.
        peak: The largest sum at any moment of forward and backward. Gradients of trained parameters count.
    """

    after_forward: int
    peak: int


class _Watch(TorchDispatchMode):
    """Remembers every storage that an operation returns, for as long as it lives."""

    def __init__(self, ignored: set[int]) -> None:
        super().__init__()
        self.ignored = ignored
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        # Count the dead before the new: the allocator may give the new tensor the identity of a dead one.
        self.forget_dead()
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.layout is torch.strided:
                storage = output.untyped_storage()
                if storage._cdata not in self.ignored and storage._cdata not in self.storages:
                    self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        return outputs

    def forget_dead(self) -> None:
        for key in [key for key, (reference, _) in self.storages.items() if reference.expired()]:
            self.now -= self.storages.pop(key)[1]


def live_bytes(
    model: nn.Module,
    forward_loss: Callable[[nn.Module], Tensor],
    *,
    backward: bool = True,
    ignore: Iterable[Tensor] = (),
) -> LiveBytes:
    """Count live bytes after the forward, and at the peak of forward and backward.

    Buffers that C++ code allocates for itself within one operation (workspaces) are not seen. Gradients
    that the model's parameters hold already are accumulated into and so are not counted either: clear them
    first.

    Args:
        model: The model whose parameters and buffers do not count.
        forward_loss: Gets the model, makes the inputs, returns the loss.
        backward: Run the backward too; without it `peak` is that of the forward.
        ignore: Further tensors that do not count, for instance the input batch.
    """
    owned = [*model.parameters(), *model.buffers(), *ignore]
    watch = _Watch({tensor.untyped_storage()._cdata for tensor in owned})
    with torch.enable_grad(), watch:
        loss = forward_loss(model)
        gc.collect()
        watch.forget_dead()
        after_forward = watch.now
        if backward and loss.requires_grad:
            loss.backward()
    return LiveBytes(after_forward, watch.peak)

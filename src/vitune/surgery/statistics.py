"""Batch norms of a frozen backbone stay in evaluation mode, whatever mode the model is in.

Their running statistics are no parameters: in training mode they would drift, and the frozen backbone with them. A
batch norm all of whose parameters train goes on collecting statistics, and these belong to what training changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from vitune.surgery.edits import CHILD, Edit, attach, detach


class HeldStatistics(Edit):
    """Keeps a module in evaluation mode."""

    key = "held_statistics"

    def train(self: Any, mode: bool = True) -> Any:
        """Only what lies below it follows."""
        super().train(mode)  # type: ignore[misc]
        self.training = False
        return self


def hold(model: nn.Module, trained: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keep running statistics as they are, but those of norms that train as a whole.

    Args:
        model: The edited model.
        trained: State-dict names of the parameters that train.

    Returns:
        Paths of the modules that are held now, for `release`; state-dict names of the buffers that training changes.
    """
    held: list[str] = []
    changing: list[str] = []
    for path, module in list(model.named_modules()):
        buffers = dict(module.named_buffers(prefix=path, recurse=False))
        if f"{path}.running_mean" not in buffers or f".{CHILD}." in f".{path}.":
            continue
        own = [name for name, _ in module.named_parameters(prefix=path, recurse=False)]
        if own and all(name in trained for name in own):
            changing += buffers
        else:
            attach(module, HeldStatistics, nn.Module())
            module.train(module.training)
            held.append(path)
    return tuple(held), tuple(changing)


def release(model: nn.Module, held: Iterable[str]) -> None:
    """Undo `hold`; the modules are then in the mode of the model.

    Args:
        model: The model.
        held: What `hold` returned.

    Raises:
        SurgeryError: If another tool changed the class of a module in the meantime.
    """
    for path in held:
        module = model.get_submodule(path)
        detach(module, HeldStatistics)
        module.training = model.training

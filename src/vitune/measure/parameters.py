"""Counting parameters, by the modules that own them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitune.errors import ConfigError


@dataclass(frozen=True)
class GroupCount:
    """The parameters below one dotted path: numbers of values, not of tensors."""

    total: int
    trained: int


@dataclass(frozen=True)
class ParameterCount:
    """The parameters of a model.

    Attributes:
        total: Number of values in all parameters; one that several modules share counts once.
        trained: Number of values with `requires_grad`.
        bytes: Bytes of all parameters in the type they are stored in.
        trained_bytes: Bytes of the trained ones.
        buffer_bytes: Bytes of the buffers (running statistics, index tables), which are no parameters.
        groups: The same counts by the first components of the dotted path, in the order of the model.
    """

    total: int
    trained: int
    bytes: int
    trained_bytes: int
    buffer_bytes: int
    groups: dict[str, GroupCount]

    @property
    def frozen(self) -> int:
        """Number of values without `requires_grad`."""
        return self.total - self.trained

    @property
    def trained_share(self) -> float:
        """Trained values divided by all values; 0 for a model without parameters."""
        return self.trained / self.total if self.total else 0.0


def count_parameters(model: nn.Module, *, depth: int = 1) -> ParameterCount:
    """Count the parameters of a model.

    Args:
        model: Any module, on any device, `meta` included.
        depth: How many components of the dotted path make a group: 1 gives `blocks`, 2 gives `blocks.0`.

    Raises:
        ConfigError: If `depth` is below 1.
    """
    if depth < 1:
        raise ConfigError(f"count_parameters: depth must be at least 1, got {depth}.")
    total = trained = stored = trained_bytes = 0
    groups: dict[str, GroupCount] = {}
    for path, parameter in model.named_parameters():
        values = parameter.numel()
        values_trained = values if parameter.requires_grad else 0
        total += values
        trained += values_trained
        stored += values * parameter.element_size()
        trained_bytes += values_trained * parameter.element_size()
        group = ".".join(path.split(".")[:depth])
        before = groups.get(group, GroupCount(0, 0))
        groups[group] = GroupCount(before.total + values, before.trained + values_trained)
    buffer_bytes = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    return ParameterCount(total, trained, stored, trained_bytes, buffer_bytes, groups)

"""The optimizer: timm's parameter groups over what trains, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from vitune.errors import TrainingError

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig
    from vitune.tuned import Tuned


class _Parameters:
    """What timm's group functions ask of a model: names of parameters and which layer each belongs to."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], tuned: Tuned) -> None:
        self._parameters = parameters
        self._anatomy = tuned.anatomy

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self._parameters.items())

    def group_matcher(self, coarse: bool) -> Any:
        return self._layer

    def _layer(self, name: str) -> int:
        """0 for the stem, i + 1 for block i, and the largest number for all that comes after the blocks."""
        role = self._anatomy.role_of(name)
        parts = role.split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        after = parts[0] in {"norm", "fc_norm", "pool", "head"}
        return len(self._anatomy.blocks) + 1 if after else 0


def build_optimizer(tuned: Tuned, config: TrainConfig) -> torch.optim.Optimizer:
    """An optimizer over everything that trains; vectors (biases, norms, scales) decay only if the settings say so.

    Every group has `lr_scale`, the factor on the learning rate that layer decay gives it.

    Args:
        tuned: The model and what of it trains.
        config: Settings of the optimizer.

    Raises:
        TrainingError: If nothing trains.
    """
    trainable = tuned.trainable()
    if not trainable:
        raise TrainingError("Nothing in this model trains; apply a method that trains something, or 'full'.")
    # The model's own exceptions (position table, class token) are honoured where timm knows them.
    exceptions = getattr(tuned.model, "no_weight_decay", set)()
    if config.decay_vectors and config.layer_decay is None:
        groups: Any = [{"params": list(trainable.values()), "weight_decay": config.weight_decay}]
    elif config.layer_decay is None:
        groups = param_groups_weight_decay(
            _Parameters(trainable, tuned),  # pyright: ignore[reportArgumentType]
            config.weight_decay,
            no_weight_decay_list=exceptions,
        )
    else:
        # All parameters, frozen ones too (timm leaves them out), so that the layers are numbered without
        # gaps.
        groups = param_groups_layer_decay(
            _Parameters(dict(tuned.model.named_parameters()), tuned),  # pyright: ignore[reportArgumentType]
            config.weight_decay,
            no_weight_decay_list=exceptions,
            layer_decay=config.layer_decay,
        )
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its learning rate.

    Args:
        optimizer: An optimizer that `build_optimizer` made.
        lr: Learning rate of a group without layer decay.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The state of the optimizer as `PARAMETER/KEY` tensors; parameters without a state yet are left out.

    Args:
        optimizer: The optimizer.
        names: Its parameters by name.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer the state that `optimizer_tensors` took from another one.

    Args:
        optimizer: An optimizer over the same parameters.
        names: Its parameters by name.
        tensors: What `optimizer_tensors` gave.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        states.setdefault(name, {})[key] = tensor
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    name_of = {id(parameter): name for name, parameter in names.items()}
    state = {
        i: states[name] for i, parameter in enumerate(order) if (name := name_of[id(parameter)]) in states
    }
    # load_state_dict moves each tensor to the device its parameter is on.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

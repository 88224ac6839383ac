"""What a checkpoint holds, and how a run is put back into that state.

Tensors are named `model/PATH` (what training changes), `optimizer/PATH/KEY`, `ema/PATH`, `best/PATH`,
`policy/I/KEY` and `loop/loss_sum`. All else is JSON. There is no random state: every draw is a function of
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vitune.errors import RunError
from vitune.training import moments
from vitune.training.selection import Selection

if TYPE_CHECKING:
    from vitune.training.checkpoint import Checkpoint
    from vitune.training.config import TrainConfig
    from vitune.tuned import Tuned

# Settings that may differ when a run is resumed: they do not change what is computed.
_FREE = {"workers", "device", "checkpoint_minutes", "checkpoint_steps"}


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: Steps done, through all stages.
        stage: Number of the stage, from 0.
        stage_start: Steps that were done when the stage began.
        finished: Whether all stages are over.
        selection: The best evaluation of the stage.
        loss_sum: Sum of the losses of the images of this epoch so far, a scalar.
        best: What training changes, as it was at the best evaluation; empty before the first.
        history: The "epoch" lines of the log.
    """

    selection: Selection
    loss_sum: Tensor
    step: int = 0
    stage: int = 0
    stage_start: int = 0
    finished: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All but the tensors."""
        names = ("step", "stage", "stage_start", "finished", "history")
        values = {name: getattr(self, name) for name in names}
        return {**values, "selection": self.selection.state_dict()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], loss_sum: Tensor, best: dict[str, Tensor]) -> Progress:
        """The inverse of `to_json`.

        Args:
            values: What `to_json` gave.
            loss_sum: Sum of the losses of this epoch so far.
            best: State at the best evaluation.
        """
        rest = {name: value for name, value in values.items() if name != "selection"}
        return cls(selection=Selection.from_state(values["selection"]), loss_sum=loss_sum, best=best, **rest)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix and a slash before their names.

    Args:
        prefix: The prefix.
        tensors: Tensors by name.
    """
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`: those with the prefix, without it.

    Args:
        prefix: The prefix.
        tensors: Tensors by name.
    """
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def pack_policies(policies: Sequence[Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The state of policies as tensors, named `policy/I/KEY`, and JSON.

    Args:
        policies: The policies of a tuned model, in order.
    """
    tensors: dict[str, Tensor] = {}
    rest: list[dict[str, Any]] = []
    for i, state in enumerate(moments.state_dicts(policies)):
        own = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= prefixed(f"policy/{i}", own)
        rest.append({key: value for key, value in state.items() if key not in own})
    return tensors, rest


def unpack_policies(
    policies: Sequence[Any], tensors: Mapping[str, Tensor], rest: Sequence[Mapping[str, Any]]
) -> None:
    """Give policies back what `pack_policies` took.

    Args:
        policies: Policies of the same kinds.
        tensors: All tensors of the checkpoint.
        rest: The JSON part.

    Raises:
        RunError: If there are other policies now.
    """
    if len(policies) != len(rest):
        raise RunError(
            f"The checkpoint was made with {len(rest)} policies but the model has {len(policies)}; "
            "resume with the methods of the run."
        )
    states = [{**state, **below(f"policy/{i}", tensors)} for i, state in enumerate(rest)]
    moments.load_state_dicts(policies, states)


def pack(
    progress: Progress, tuned: Tuned, config: TrainConfig, accelerator: Accelerator, loss_sum: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON state of a run, but for its stage and its log.

    Args:
        progress: Where the run is.
        tuned: The model.
        config: Settings of the run.
        accelerator: Holds the scale of the loss where the precision is fp16.
        loss_sum: Sum of the losses of this epoch so far, over all processes.
    """
    tensors, policies = pack_policies(tuned.policies)
    tensors |= (
        prefixed("model", tuned.state()) | prefixed("best", progress.best) | {"loop/loss_sum": loss_sum}
    )
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    values = {
        "progress": progress.to_json(),
        "policies": policies,
        "scaler": scaler,
        "config": config.to_dict(),
    }
    return tensors, values


def unpack(checkpoint: Checkpoint, tuned: Tuned, config: TrainConfig, accelerator: Accelerator) -> Progress:
    """Put a model and its policies into the state of a checkpoint.

    Args:
        checkpoint: What `pack` gave, saved and read.
        tuned: The model as it was before the first step.
        config: Settings of the run.
        accelerator: Device and processes.

    Returns:
        Where the run is.

    Raises:
        RunError: If the checkpoint is of another model, method or settings.
    """
    values: Any = checkpoint.state
    tensors = checkpoint.tensors
    check_same_settings(values["config"], config)
    # Policies first: what they prepared or pruned decides which tensors the model has.
    unpack_policies(tuned.policies, tensors, values["policies"])
    model = below("model", tensors)
    check_same_tensors(model, tuned.state())
    tuned.load_state(model)
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(values["scaler"])
    # The sum is over all processes already, so that one of them takes it and the others start at zero.
    loss_sum = zero_loss(accelerator.device)
    if accelerator.is_main_process:
        loss_sum += tensors["loop/loss_sum"].to(accelerator.device)
    return Progress.from_json(values["progress"], loss_sum, below("best", tensors))


def check_same_settings(saved: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse to go on with settings under which the run would have gone otherwise.

    Args:
        saved: The settings in the checkpoint.
        config: The settings now.

    Raises:
        RunError: If one differs; names it.
    """
    for name, value in config.to_dict().items():
        if name not in _FREE and saved.get(name) != value:
            raise RunError(
                f"The run was started with {name} {saved.get(name)!r} and cannot be resumed with {value!r}; "
                "resume it with the settings it has, or start another run."
            )


def check_same_tensors(saved: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint of another model or method.

    Args:
        saved: What training changed, in the checkpoint.
        current: What training changes in the model at hand.

    Raises:
        RunError: If names or shapes differ; names the first tensor.
    """
    for name in sorted(saved.keys() | current.keys()):
        there = tuple(saved[name].shape) if name in saved else "absent"
        here = tuple(current[name].shape) if name in current else "absent"
        if there != here:
            raise RunError(
                f"The checkpoint is of another model or method: '{name}' is {there} in it and {here} here; "
                "resume with the model and methods of the run."
            )


def zero_loss(device: torch.device) -> Tensor:
    """An empty sum of losses, in double precision where the device has it.

    Args:
        device: Where the losses are.
    """
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

"""What PEFT does outside of its layers while they train: budgets of AdaLoRA and AdaMSS, KaSA's penalties."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitune.errors import ConfigError
from vitune.methods._base import Criterion, Policy, Run
from vitune.methods.hf_peft.copies import ADAPTER
from vitune.surgery import layer_of

if TYPE_CHECKING:
    from vitune.tuned import Tuned

_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
_SCORES = ("exp_avg_ipt_A", "exp_avg_ipt_B", "exp_avg_unc_A", "exp_avg_unc_B")
_SCHEDULE = (
    "init_r",
    "target_r",
    "tinit",
    "tfinal",
    "deltaT",
    "beta1",
    "beta2",
    "orth_reg_weight",
    "total_step",
)


class _AfterEachStep(Policy, ABC):
    """Calls PEFT after each optimizer step with the gradients beside the new weights, as PEFT's own loops do.

    Our loop has let go of the gradients by then, so that they are held from the backward pass on.
    """

    def __init__(self, tuned: Tuned) -> None:
        self._tuned = tuned
        self._gradients: dict[str, Tensor | None] = {}
        self._step = 0

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Those of PEFT's layers, by name: all of a model that PEFT's rank allocator asks for."""
        return ((n, p) for n, p in self._tuned.trainable().items() if ".vitune.peft." in n)

    def before_step(self, step: int) -> None:
        """Remember where the run is."""
        self._step = step

    def after_backward(self) -> None:
        """Hold the gradients; clipping acts on what is held."""
        self._gradients = {name: parameter.grad for name, parameter in self.named_parameters()}

    def after_step(self) -> None:
        """Call PEFT."""
        parameters = dict(self.named_parameters())
        held = {name: parameter.grad for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.grad = self._gradients.get(name)
        try:
            self.allocate(self._step)
        finally:
            for name, parameter in parameters.items():
                parameter.grad = held[name]
            self._gradients = {}

    @abstractmethod
    def allocate(self, step: int) -> None:
        """Score and cut."""


class RankBudget(_AfterEachStep):
    """AdaLoRA: PEFT's own allocator cuts ranks after each step, and a penalty keeps A and B orthogonal.

    Args:
        tuned: The model.
        options: Every setting of the config, defaults too. Without `total_step` the run's steps are the schedule's.
    """

    def __init__(self, tuned: Tuned, options: Mapping[str, Any]) -> None:
        super().__init__(tuned)
        self._config = SimpleNamespace(**{name: options[name] for name in _SCHEDULE})
        self._allocator: Any = None
        self._pattern: dict[str, list[bool]] | None = None
        self._averages: dict[str, dict[str, Tensor]] = {name: {} for name in _AVERAGES}
        self._last = 0

    def begin(self, run: Run) -> None:
        """Fit the schedule to the run.

        Raises:
            ConfigError: If it leaves no step for cutting ranks.
        """
        config = self._config
        config.total_step = config.total_step or run.steps
        self._last = min(config.total_step, run.steps) - 1
        if config.tinit >= config.total_step - config.tfinal:
            raise ConfigError(
                f"peft: ADALORA with tinit={config.tinit} and tfinal={config.tfinal} leaves none of "
                f"{config.total_step} steps for cutting ranks; make them smaller, or train for more epochs."
            )
        made = importlib.import_module("peft.tuners.adalora.layer").RankAllocator(self, config, ADAPTER)
        self._allocator = made
        self._hand_over()

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The loss, and by `orth_reg_weight` the mean distance of A A' and B' B from the identity."""
        distances = []
        for name, parameter in self.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
                distances.append(torch.norm(gram - torch.eye(len(gram), out=torch.empty_like(gram))))
        penalty = torch.stack(distances).sum() / len(distances)
        return criterion(logits, targets) + self._config.orth_reg_weight * penalty

    def allocate(self, step: int) -> None:
        """Score the ranks, and cut those that the budget of the step does not cover."""
        final = self._config.total_step - self._config.tfinal
        if step < final or (step == final and self._config.tfinal):
            _, pattern = self._allocator.update_and_allocate(self, step, force_mask=step == final)
            self._pattern = pattern or self._pattern
        elif self._pattern is not None:
            self._allocator.mask_using_rank_pattern(self, self._pattern)
        if step >= min(final, self._last):
            self._allocator.reset_ipt()  # nothing is scored any more

    def log(self) -> dict[str, Any]:
        """How many ranks are left in all layers."""
        return {} if self._pattern is None else {"ranks": sum(map(sum, self._pattern.values()))}

    def state_dict(self) -> dict[str, Any]:
        """The averages of the scores, and the ranks that are left."""
        averages = self._averages if self._allocator is None else vars(self._allocator)
        tensors = {f"{kind}/{name}": t for kind in _AVERAGES for name, t in averages[kind].items()}
        return {"ranks": self._pattern, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put both back."""
        self._pattern = state["ranks"]
        for kind in _AVERAGES:
            found = {key: tensor for key, tensor in state.items() if key.startswith(f"{kind}/")}
            self._averages[kind] = {key.partition("/")[2]: tensor for key, tensor in found.items()}
        self._hand_over()

    def _hand_over(self) -> None:
        """Give what was put back to the allocator, where the model is."""
        if self._allocator is None:
            return
        parameters = dict(self.named_parameters())
        for kind in _AVERAGES:
            known = {name: t.to(parameters[name].device) for name, t in self._averages[kind].items()}
            setattr(self._allocator, kind, known)
        # The latest score itself is made anew each time; the allocator only asks whether it was ever made.
        self._allocator.ipt = dict(self._allocator.exp_avg_ipt)


class SubspaceBudget(_AfterEachStep):
    """AdaMSS with `use_asa`: PEFT's own schedule lets the less important subspaces rest from a step on.

    Args:
        tuned: The model.
        options: Every setting of the config, defaults too.
    """

    def __init__(self, tuned: Tuned, options: Mapping[str, Any]) -> None:
        super().__init__(tuned)
        self._final = options["final_warmup"]
        layers: list[Any] = peft_layers(tuned)
        theirs = importlib.import_module("peft.tuners.adamss.model").AdamssModel
        # PEFT's model, as far as its schedule looks at it.
        self._model: Any = SimpleNamespace(
            active_adapters=[ADAPTER],
            peft_config={ADAPTER: SimpleNamespace(**options)},
            model=SimpleNamespace(modules=lambda: layers),
            _asa_total_subspaces={ADAPTER: sum(layer.num_subspaces[ADAPTER] for layer in layers)},
        )
        for name in ("update_and_allocate", "_schedule_threshold", "_global_mask_to_target"):
            setattr(self._model, name, MethodType(getattr(theirs, name), self._model))
        self._layers = layers
        self._last = self._final
        self._resting: list[str] = []

    def begin(self, run: Run) -> None:
        """Remember when the last step is."""
        self._last = min(self._final, run.steps - 1)

    def before_step(self, step: int) -> None:
        """Let rest what does; not earlier, so that an optimizer that is made anew holds every parameter."""
        super().before_step(step)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in self._resting)

    def allocate(self, step: int) -> None:
        """Score the subspaces, and let rest what the schedule of the step does not cover."""
        self._model.update_and_allocate(step)
        self._resting = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        if step >= self._last:
            for layer in self._layers:
                layer.reset_importance(ADAPTER)  # nothing is scored any more

    def log(self) -> dict[str, Any]:
        """How many tensors of subspaces train still."""
        return {"active": sum(name not in self._resting for name, _ in self.named_parameters())}

    def state_dict(self) -> dict[str, Any]:
        """The averages of the scores, and which tensors rest."""
        scores = {
            f"{kind}/{i}/{k}": tensor
            for i, layer in enumerate(self._layers)
            for kind in _SCORES
            for k, tensor in enumerate(getattr(layer, kind)[ADAPTER])
            if tensor is not None
        }
        return {"resting": self._resting, **scores}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put both back."""
        self._resting = list(state["resting"])
        for i, layer in enumerate(self._layers):
            layer.reset_importance(ADAPTER)
            device = layer.adamss_A[ADAPTER][0].device
            for kind in _SCORES:
                own = getattr(layer, kind)[ADAPTER]
                own[:] = [
                    None if (t := state.get(f"{kind}/{i}/{k}")) is None else t.to(device)
                    for k in range(len(own))
                ]


class SingularPenalty(Policy):
    """KaSA: PEFT's own penalties on singular values and on how far the factors are from orthogonal.

    Args:
        tuned: The model.
        weights: `beta` and `gamma` of the config.
    """

    def __init__(self, tuned: Tuned, weights: Mapping[str, float]) -> None:
        self._tuned, self._weights = tuned, dict(weights)

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The loss, and the penalties of every layer."""
        variants = importlib.import_module("peft.tuners.lora.variants")
        of_layer = variants._kasa_layer_regularization_loss
        penalties = [of_layer(layer, ADAPTER, **self._weights) for layer in peft_layers(self._tuned)]
        return criterion(logits, targets) + torch.stack(penalties).sum()


def peft_layers(tuned: Tuned) -> list[nn.Module]:
    """PEFT's layers in a model, in the order of the forward pass."""
    from vitune.methods.hf_peft.layers import PeftEdit

    return [layer_of(module, PeftEdit) for module in tuned.model.modules() if isinstance(module, PeftEdit)]

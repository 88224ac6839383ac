"""MonteCLoRA as a function of (seed, step): noise on A while LoRA trains, averaged with learned shares.

PEFT draws the noise of many passes in advance and keeps the rest from step to step. Here a policy draws before each
step, by PEFT's own sampler, so that every pass of a step has the same noise and a resumed run the noise of the whole
one. PEFT's layer looks for values that are no numbers and then leaves the noise out, which no count could know before;
here it does not look. Nothing of this is left in evaluation or after a merge: PEFT computes plain LoRA there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods._base import Criterion, Policy, Run
from vitune.methods.hf_peft.copies import ADAPTER
from vitune.methods.hf_peft.policies import peft_layers
from vitune.randomness import derive_seed, preserved_randomness, seeded
from vitune.surgery import GATED_IN_TRAINING, Edit, attach

if TYPE_CHECKING:
    from vitune.tuned import Tuned

# What PEFT's sampler draws: noise (samples, in, rank), a matrix (rank, rank) and one number for each sample.
DRAWN = ("z_mvn", "z_wishart", "z_dirichlet")
# Buffers in which PEFT's sampler leaves what the penalty of the same step reads, with its graph.
_PASSING = ("gaussian_var_prior", "expert_weights")


def with_drawn_noise(layer: Any) -> None:
    """Let a MonteCLoRA layer of PEFT read its noise from buffers that are drawn before a step.

    Args:
        layer: The layer, outside of the model still.
    """
    sampler = layer.lora_monteclora_sampler[ADAPTER]
    first = sampler.sampler.get()
    del sampler.sampler  # PEFT's store of draws
    for name in DRAWN:
        sampler.register_buffer(name, first[name].clone(), persistent=False)
    for name in _PASSING:
        delattr(sampler, name)
    attach(sampler, DrawnBefore, nn.Module())
    layer.lora_variant[ADAPTER] = WithNoise()
    setattr(layer, GATED_IN_TRAINING, True)


class Passing(dict[str, Tensor]):
    """What a pass leaves for the penalty; no copy of the model takes it along."""

    def __deepcopy__(self, memo: Any) -> Passing:
        return Passing()

    def __reduce__(self) -> Any:
        return Passing, ()


def _passing(name: str) -> property:
    def read(self: Any) -> Tensor:
        return vars(self)["passing"][name]

    def write(self: Any, value: Tensor) -> None:
        vars(self).setdefault("passing", Passing())[name] = value

    return property(read, write, doc="Of the last pass, with its graph.")


class DrawnBefore(Edit):
    """PEFT's sampler with the noise of the step in place of a store of draws."""

    key = "drawn"
    gaussian_var_prior, expert_weights = map(_passing, _PASSING)

    @property
    def sampler(self) -> DrawnBefore:
        """Itself, as the store that PEFT's forward pass asks."""
        return self

    def get(self: Any) -> dict[str, Tensor]:
        """The noise of the step by name."""
        return {name: self._buffers[name] for name in DRAWN}


class WithNoise:
    """PEFT's variant of a LoRA layer, with a forward pass that does not branch on values."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **others: Any) -> Tensor:
        """The output of the wrapped layer (..., out) and the update of x (..., in), with noise on A in training."""
        weight = module.lora_A[active_adapter].weight
        if module.training:
            noise, shares = module.lora_monteclora_sampler[active_adapter]()
            weight = torch.einsum("n,nij->ij", shares, weight.T + noise).T
        latent = F.linear(module.lora_dropout[active_adapter](x.to(weight.dtype)), weight)
        return result + module.lora_B[active_adapter](latent) * module.scaling[active_adapter]

    def __getattr__(self, name: str) -> Any:  # merging is PEFT's
        return getattr(importlib.import_module("peft.tuners.lora.variants").MontecloraLinearVariant, name)


class VariationalPenalty(Policy):
    """Draws the noise of each step, and adds PEFT's own variational penalty to the loss.

    Args:
        tuned: The model.
    """

    def __init__(self, tuned: Tuned) -> None:
        layers: list[Any] = peft_layers(tuned)
        self._samplers = [layer.lora_monteclora_sampler[ADAPTER] for layer in layers]
        self._stores: list[Any] = []
        self._seed = 0

    def begin(self, run: Run) -> None:
        """Learn the seed."""
        self._seed = run.seed

    def before_step(self, step: int) -> None:
        """Draw, a function of (seed, step); on the CPU, so that every device has the same numbers."""
        if not self._stores:
            make = importlib.import_module("peft.tuners.lora.monteclora").BufferedMontecloraSampler
            with preserved_randomness():  # a store is made with draws of its own
                self._stores = [make(sampler, buffer_size=1, device="cpu") for sampler in self._samplers]
        with seeded(derive_seed(self._seed, "monteclora", step)):
            for sampler, store in zip(self._samplers, self._stores, strict=True):
                store._refill_buffer()
                for name, values in store.get().items():
                    sampler.get_buffer(name).copy_(values)

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The loss, and the mean over layers of the penalty."""
        parts = [sampler.get_variational_loss() for sampler in self._samplers]
        return criterion(logits, targets) + torch.stack([kl + entropy for kl, entropy in parts]).mean()

    def after_step(self) -> None:
        """Let go of the graph of the last pass."""
        for sampler in self._samplers:
            vars(sampler).get("passing", {}).clear()

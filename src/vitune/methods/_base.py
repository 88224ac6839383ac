"""What a method is, and what a policy is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vitune.anatomy import Anatomy
from vitune.errors import ConfigError, did_you_mean
from vitune.surgery import Step

if TYPE_CHECKING:
    from vitune.tuned import Tuned

Criterion = Callable[[Tensor, Tensor], Tensor]


class Policy:
    """What a method does during training beyond its layers. Every moment may be left as it is.

    In order: `prepare` once before the first step; then per step `before_step`, forward, `loss`, backward,
    `after_backward`, optimizer step, `after_step`; at the end of a stage `next_stage`.
    """

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Look at training batches, images (B, channels, height, width) and labels (B,), before the first step."""

    def before_step(self, step: int) -> None:
        """Decide what this step does; `step` counts optimizer steps from 0."""

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The loss, a scalar, of logits (B, C) and targets, (B,) class indices or (B, C) probabilities."""
        return criterion(logits, targets)

    def after_backward(self) -> None:
        """Gradients are there; the optimizer has not stepped."""

    def after_step(self) -> None:
        """The optimizer has stepped."""

    def next_stage(self) -> bool:
        """Called when an epoch budget is through; True asks for another stage of training."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, or values that JSON can hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings of one way to tune a backbone. Subclasses are frozen dataclasses; one file each.

    Attributes:
        name: Name on the command line and in files.
        title: Full name.
        paper: Where it is published.
        default_lr: Learning rate of AdamW at batch 64 that suits it where nobody chose one; source in the docs page.
        merges: Whether a trained model becomes a plain one again, at no cost in inference.
        conflicts: Names of methods it cannot live with, and why; either of the two may say so. By default a method
            adapts frozen weights, which full fine-tuning and a linear probe do not leave it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    default_lr: ClassVar[float]
    merges: ClassVar[bool]
    conflicts: ClassVar[Mapping[str, str]] = {
        "full": "full fine-tuning already trains every weight that the other would adapt",
        "linear": "every method trains the head; a linear probe is the method that trains nothing else",
    }

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """What to change, as a plan; changes nothing.

        Args:
            anatomy: The backbone.

        Raises:
            NothingMatchedError: If a role pattern matches nothing.
            UnsupportedBackboneError: If the method cannot work on this backbone.
        """
        raise TypeError(f"{type(self).__name__} does not say what it edits")

    def policy(self, tuned: Tuned) -> Policy | None:
        """What to do during training, or None."""
        return None

    @property
    def starts_at_identity(self) -> bool:
        """Whether the tuned model computes the very same as the plain one before training."""
        return True

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Method:
        """Make the method from JSON values.

        Raises:
            ConfigError: If a setting is unknown or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"{cls.name}: no setting '{name}'. {did_you_mean(name, known)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})

    def require(self, condition: bool, setting: str, must: str) -> None:
        """Complain about a setting.

        Raises:
            ConfigError: If the condition does not hold; names the setting, what it must be and what it is.
        """
        if not condition:
            raise ConfigError(f"{self.name}: {setting} must be {must}, not {getattr(self, setting)!r}.")


def count_parameters(layer: nn.Module) -> int:
    """Numbers in the parameters of a layer."""
    return sum(parameter.numel() for parameter in layer.parameters())

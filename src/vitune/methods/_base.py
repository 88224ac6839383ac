"""What a method is, and what a policy is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from vitune.anatomy import Anatomy
from vitune.errors import ConfigError, did_you_mean
from vitune.surgery import Step

if TYPE_CHECKING:
    from vitune.tuned import Tuned

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """What a policy may know of the run in which it acts.

    Attributes:
        seed: Seed of the run.
        lr: Peak learning rate.
        steps: Steps of a stage.
        batches: The training batches that `prepare` is given, at any time; None outside of `fit`.
    """

    seed: int
    lr: float
    steps: int
    batches: Iterable[tuple[Tensor, Tensor]] | None = None


class Policy:
    """What a method does during training beyond its layers. Every moment may be left as it is.

    In order: `begin` when a run starts or is resumed; `prepare` once before the first step; then per step
    `before_step`, forward, `loss`, backward, `after_backward`, optimizer step, `after_step`; at the end of a stage
    `next_stage`. A policy that says how many `passes` a step has makes them itself: `losses` stands for forward and
    loss, and every loss goes backward before the next pass.

    Attributes:
        passes: Forward and backward passes of a step that `losses` makes; 0 leaves the one pass to the loop.
    """

    passes: int = 0

    def begin(self, run: Run) -> None:
        """Learn about the run, before anything else."""

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Look at training batches, images (B, channels, height, width) and labels (B,), before the first step.

        Those of `fit` have a property `unaugmented`: the same batches of the images as evaluation sees them.
        """

    def before_step(self, step: int) -> None:
        """Decide what this step does; `step` counts optimizer steps from 0."""

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        """The loss, a scalar, of logits (B, C) and targets, (B,) class indices or (B, C) probabilities."""
        return criterion(logits, targets)

    def losses(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, criterion: Criterion
    ) -> Iterator[Tensor]:
        """The losses of a step's passes, as many as `passes` says; the step's loss is their sum.

        Each is sent backward before the next is asked for, so that one graph is alive at a time.

        Args:
            forward: Gives logits (B, C) of images.
            images: (B, channels, height, width).
            targets: (B,) class indices or (B, C) probabilities.
            criterion: The loss of logits and targets, those of the other policies included.
        """
        yield criterion(forward(images), targets)

    def pass_settings(self) -> Sequence[AbstractContextManager[None]]:
        """While each is entered the model is as in one of the passes that `losses` makes; for counting their costs."""
        return [nullcontext()] * self.passes

    def kinds(self) -> Sequence[tuple[float, AbstractContextManager[None]]]:
        """Where it draws what a step trains: the share of each kind of steps, and what, while it is entered, makes the
        model as in such a step; for counting what the mean step costs. Outside of them the model is as in the step that
        costs most."""
        return []

    def after_backward(self) -> None:
        """Gradients are there; the optimizer has not stepped."""

    def after_step(self) -> None:
        """The optimizer has stepped."""

    def next_stage(self) -> bool:
        """Called when an epoch budget is through; True asks for another stage of training."""
        return False

    def log(self) -> dict[str, Any]:
        """What the "step" line of the log says of the last step beside the loss: JSON values by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: tensors, or values that JSON can hold."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


@dataclass(frozen=True)
class DataNeeds:
    """Training images that a method looks at before it knows what to edit.

    Attributes:
        batches: How many batches at most.
        batch_size: Images in each.
        shuffled: Whether they are drawn at random; else they are the first, in the order of the data.
    """

    batches: int
    batch_size: int
    shuffled: bool = False


@dataclass(frozen=True)
class Skipping:
    """How a model leaves out computation at inference, for those who measure or export it.

    Attributes:
        kept: Images (B, channels, height, width) to which patch tokens (B, N) every gate keeps, by role.
        dense: Makes a context; while it is entered, everything is computed and masked: the same values.
    """

    kept: Callable[[Tensor], Mapping[str, Tensor]]
    dense: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings of one way to tune a backbone. Subclasses are frozen dataclasses; one file each.

    Attributes:
        name: Name on the command line and in files.
        title: Full name.
        paper: Where it is published.
        default_lr: Learning rate of AdamW at batch 64 that suits it where nobody chose one; source in the docs page.
        merges: Whether a trained model becomes a plain one again, at no cost in inference.
        each_token_alone: Whether what it adds acts on each token alone (attention to further tokens aside), so that
            the last block may run in training for those tokens only which the head reads.
        conflicts: Names of methods it cannot live with, and why; either of the two may say so. By default a method
            adapts frozen weights, which full fine-tuning and a linear probe do not leave it.
        acts_on_others: Whether it trains nothing itself but changes how the other methods' parameters train. Where all
            given methods are of that kind, they act on full fine-tuning.
        reads_text: Whether it is defined on models of text, too; the others need patches, or images to look at.
        search_space: Its main settings, and the values that a search tries for each beside the one it has.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    default_lr: ClassVar[float]
    merges: ClassVar[bool]
    each_token_alone: ClassVar[bool] = True
    acts_on_others: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    search_space: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
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

    def further(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """What to change beyond `edits`, knowing what all methods change; such edits are the outermost.

        Args:
            anatomy: The backbone.
            steps: The steps of all methods so far, in order.

        Raises:
            VituneError: If the method cannot act on these.
        """
        return []

    def narrowed(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """What is left to change where this method keeps some of it from ever training.

        Args:
            anatomy: The backbone.
            steps: The steps of all methods, in order.
        """
        return list(steps)

    @property
    def needs_data(self) -> DataNeeds | None:
        """Images that `resolved` is to be called with before `edits`; None: what to edit does not depend on data."""
        return None

    def resolved(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int = 0
    ) -> Method:
        """The method with everything filled in that depends on the data.

        Args:
            model: The plain backbone; left as it was.
            batches: Images (B, channels, height, width), without augmentation, and labels (B,).
            seed: Of whatever is random in it.
        """
        return self

    def countable(self) -> Method:
        """A method of the same costs that needs no data, for counting where there are none; itself if there is none."""
        return self

    def policy(self, tuned: Tuned) -> Policy | None:
        """What to do during training, or None."""
        return None

    def skipping(self, tuned: Tuned) -> Skipping | None:
        """How the trained model leaves out computation that depends on the image; None: it does not."""
        return None

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """What the report of a run draws to explain what the method did; asked for once, at the end of the run.

        Args:
            tuned: The trained model, in evaluation mode; left as it was.
            images: A few (B, channels, height, width), as evaluation sees them, where the model is.

        Returns:
            Kind of picture to its JSON values; a file of `vitune.report.pictures` draws each kind and describes its
            values.
        """
        return {}

    @property
    def starts_at_identity(self) -> bool:
        """Whether the tuned model computes the very same as the plain one before training."""
        return True

    def stored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of `Tuned.state` as an adapter file holds them: a method leaves out what is known without."""
        return dict(tensors)

    def restored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `stored`, for a freshly tuned model; what does not fit stays as it is."""
        return dict(tensors)

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

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Method | None:
        """Made from settings as text, for a method whose settings are not its fields; None: they are.

        Raises:
            ConfigError: If a setting is unknown or malformed.
        """
        return None

    def texts(self) -> dict[str, str] | None:
        """The inverse of `from_texts`, without what is at its default; None: the settings are the fields."""
        return None

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

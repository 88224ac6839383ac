"""Tuning with Lightning: a callback that calls the policies, and a mixin for modules that makes their losses, too.

    class Classifier(VituneMixin, LightningModule):
        def __init__(self, tuned):
            super().__init__()
            self.tuned, self.model = tuned, tuned.model

        def configure_optimizers(self):
            return torch.optim.AdamW(self.tuned.parameters(), lr=1e-3)

    trainer = fit_stages(lambda: Trainer(max_epochs=10), Classifier(tuned), loader)

Without policies (LoRA, SSF, AdaptFormer ...) a module needs neither. Written against lightning 2.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from vitune._extras import require
from vitune.errors import TrainingError
from vitune.interop._policies import Batches, Moments, require_plain_loss
from vitune.methods import Run
from vitune.training import moments
from vitune.tuned import Tuned

require("lightning", "lightning", "vitune.interop.lightning")
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.utilities.types import STEP_OUTPUT  # noqa: E402

_MIXIN = "vitune.interop.lightning.VituneMixin"


class VituneCallback(Callback):
    """Calls the policies of a tuned model; their states are part of Lightning's checkpoints.

    A module's optimizers are made before `prepare` here. A policy's wish for another stage is in `another_stage` after
    `fit`: go on with a new Trainer and the same callback (`fit_stages` does).

    Args:
        tuned: The model that the module trains.
        read: Takes images and labels out of a batch; not given, a batch begins with these two.
        seed: Of what policies draw at random.

    Raises:
        TrainingError: If a policy has a loss or passes of its own, which take `VituneMixin`.
    """

    def __init__(
        self, tuned: Tuned, *, read: Callable[[Any], tuple[Tensor, Tensor]] | None = None, seed: int = 0
    ) -> None:
        self._require(tuned)
        self._moments, self._read, self._seed = Moments(tuned), read or _first_two, seed
        self._states: list[dict[str, Any]] | None = None
        self._told: int | None = None  # the step that policies decided about last
        self._done = 0  # steps after which policies have acted

    @property
    def another_stage(self) -> bool:
        """Whether a policy asked for one more stage when `fit` ended."""
        return self._moments.another_stage

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell policies about the run, and show them the data.

        Raises:
            TrainingError: If a policy changes what trains.
        """
        tuned = self._moments.tuned
        self._told, self._done = None, trainer.global_step
        before = {id(parameter) for parameter in tuned.parameters()}
        lr = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        batches = Batches(trainer.train_dataloader or (), self._read, pl_module.device)
        self._moments.begin(
            Run(self._seed, lr, int(trainer.estimated_stepping_batches), batches), self._states
        )
        if {id(parameter) for parameter in tuned.parameters()} != before:
            raise TrainingError("a policy changed what trains after the module made its optimizers.")
        pl_module.train()  # looking at the data may have left another mode

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first part of a batch."""
        if self._told != trainer.global_step:
            self._told = trainer.global_step
            self._moments.before_step(trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Gradients are there, not clipped yet."""
        self._moments.after_backward()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """After the optimizer's step, where this part of a batch was its last."""
        if trainer.global_step > self._done:
            self._done = trainer.global_step
            self._moments.after_step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the end of a stage."""
        self._moments.end_stage(trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What policies remember."""
        return {"policies": self._moments.state_dicts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the run begins."""
        self._states = state_dict["policies"]

    def _require(self, tuned: Tuned) -> None:
        require_plain_loss(tuned.policies, f"{_MIXIN} in your module")


class _CallbackOfMixin(VituneCallback):
    """The same beside a module that makes the losses."""

    def _require(self, tuned: Tuned) -> None:
        moments.passes(tuned.policies)  # refuses two that both make the passes


class VituneMixin:
    """Stands before `LightningModule`: makes the losses and passes of all policies, and brings the callback along.

    Optimization stays automatic: accumulation, clipping and precision are the Trainer's. Where a policy makes several
    passes, each goes backward before the next one runs; that takes one process.

    Attributes:
        tuned: The model; set it in `__init__`, and its `.model` as a child, so that Lightning sees its parameters.
    """

    tuned: Tuned
    trainer: Any  # of the LightningModule behind
    _callback: VituneCallback | None = None
    _losses: Iterator[Tensor] | None = None

    def read(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images (B, channels, height, width) and labels (B,) of a batch; here its first two entries."""
        return _first_two(batch)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of logits (B, C) and targets, a mean over the batch; here the cross-entropy."""
        return F.cross_entropy(logits.float(), targets)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, height, width)."""
        return self.tuned(images)

    def configure_callbacks(self) -> list[Callback]:
        """The callback that calls the policies, one through all stages."""
        if self._callback is None:
            self._callback = _CallbackOfMixin(self.tuned, read=self.read)
        return [self._callback]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of the first pass; `backward` makes the others.

        Raises:
            TrainingError: If a policy makes several passes and there are several processes.
        """
        policies = self.tuned.policies
        if moments.passes(policies) > 1 and self.trainer.world_size > 1:
            raise TrainingError(
                "a policy makes several passes in a step, whose gradients Lightning's processes would not exchange; "
                "use one process, or vitune's own training."
            )
        images, labels = self.read(batch)
        self._losses = iter(moments.losses(policies, self.tuned, images, labels, self.criterion))
        return next(self._losses)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward of a pass, then forward and backward of the next."""
        super().backward(loss, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if self._losses is None:
            return
        trainer = self.trainer
        with trainer.precision_plugin.forward_context():
            further = next(self._losses, None)
        if further is None:
            self._losses = None
        else:  # comes back here with the scaled loss
            trainer.strategy.backward(further / trainer.accumulate_grad_batches, None)


def fit_stages(make_trainer: Callable[[], Trainer], module: Any, *args: Any, **kwargs: Any) -> Trainer:
    """`fit` as often as policies ask for another stage, each with a Trainer, optimizer and schedule of its own.

    Args:
        make_trainer: Gives a new Trainer.
        module: A module with `VituneMixin`.
        *args: As for `Trainer.fit`.
        **kwargs: As for `Trainer.fit`; `ckpt_path` is for the first stage alone.

    Returns:
        The last Trainer.
    """
    while True:
        trainer = make_trainer()
        trainer.fit(module, *args, **kwargs)
        callback = module.configure_callbacks()[0]
        if trainer.interrupted or not callback.another_stage:
            return trainer
        kwargs.pop("ckpt_path", None)


def _first_two(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        raise TrainingError(
            f"a batch has the names {', '.join(map(str, batch))}; say by `read` which are images and labels."
        )
    return batch[0], batch[1]

"""Tuning in the `Trainer` of Hugging Face transformers: a callback for a Trainer as it is, and a Trainer of our own.

    trainer = Trainer(tuned.model, args, train_dataset=data, callbacks=[VituneCallback(tuned)])
    trainer = VituneTrainer(tuned, args=args, train_dataset=data)

Without policies (LoRA, SSF, AdaptFormer ...) a Trainer needs neither. `VituneTrainer` makes every policy's losses and
stages, and takes timm models, too. Written against transformers 5.

Each checkpoint gets a file with what tuning changed and what policies remember, and a resumed run goes on from it: the
Trainer's own weights file has transformers' old names of layers, and where these differ it restores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune._extras import require
from vitune.anatomy import logits
from vitune.durable import replace_file
from vitune.errors import RunError, TrainingError
from vitune.interop._policies import Batches, Moments, require_plain_loss, says
from vitune.methods import Run
from vitune.training import moments
from vitune.tuned import Tuned

require("transformers", "hf", "vitune.interop.transformers_trainer")
from transformers import Trainer, TrainerCallback  # noqa: E402
from transformers.trainer_callback import TrainerControl, TrainerState  # noqa: E402
from transformers.training_args import TrainingArguments  # noqa: E402

STATE = "vitune_state.pt"
_TRAINER = "vitune.interop.transformers_trainer.VituneTrainer in place of Trainer"


class _Steps(TrainerCallback):
    """The moments that a Trainer tells its callbacks of."""

    def __init__(self, played: Moments) -> None:
        self._moments = played

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first part of a batch."""
        self._moments.before_step(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimizer's step."""
        self._moments.after_step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At the end of a stage."""
        self._moments.end_stage(state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put what training changes, and what policies remember, beside the checkpoint."""
        folder = _checkpoint(args, state)
        if state.is_world_process_zero and folder.is_dir():
            kept = {"tensors": self._moments.tuned.state(), "policies": self._moments.state_dicts()}
            replace_file(folder / STATE, lambda temporary: torch.save(kept, temporary))


class VituneCallback(_Steps):
    """Calls the policies of a tuned model from a Trainer as it is.

    Gradients are clipped before `after_backward` here, and the Trainer's optimizer is made before `prepare`. A policy's
    wish for another stage is in `another_stage` after training: go on with a new Trainer and the same callback.

    Args:
        tuned: The model that the Trainer trains.
        images: Name of the images in the Trainer's batches.
        labels: Name of the labels.

    Raises:
        TrainingError: If a policy has a loss or passes of its own, which take `VituneTrainer`.
    """

    def __init__(self, tuned: Tuned, *, images: str = "pixel_values", labels: str = "labels") -> None:
        require_plain_loss(tuned.policies, _TRAINER)
        super().__init__(Moments(tuned))
        self._names = images, labels

    @property
    def another_stage(self) -> bool:
        """Whether a policy asked for one more stage when training ended."""
        return self._moments.another_stage

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell policies about the run, and show them the data.

        Raises:
            TrainingError: If a policy changes what trains, or gradients would reach it clipped.
        """
        tuned = self._moments.tuned
        clipped = [policy for policy in tuned.policies if says(policy, "after_backward")]
        if clipped and args.max_grad_norm:
            raise TrainingError(
                f"{type(clipped[0]).__name__} reads gradients before they are clipped and a callback sees them "
                f"afterwards; set max_grad_norm=0, or use {_TRAINER}."
            )
        before = {id(parameter) for parameter in tuned.parameters()}
        batches = Batches(kwargs["train_dataloader"], self._read, args.device)
        run = Run(args.seed, args.learning_rate, state.max_steps, batches)
        self._moments.begin(run, _restored(args, state, tuned))
        if {id(parameter) for parameter in tuned.parameters()} != before:
            raise TrainingError(
                f"a policy changed what trains after the Trainer made its optimizer; use {_TRAINER}."
            )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gradients are there."""
        self._moments.after_backward()

    def _read(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = self._names
        return batch[images], batch[labels]


class VituneTrainer(Trainer):
    """A Trainer that makes the losses, passes and stages of all policies.

    The loss is the mean cross-entropy of the logits (with `label_smoothing_factor`), or `criterion`, whatever loss the
    model itself would give. Every stage has an optimizer and a schedule of its own; `train` returns the last one's
    output.

    Args:
        tuned: The model; timm's or transformers'.
        images: Name of the images in the batches.
        labels: Name of the labels.
        criterion: Loss of logits (B, C) and labels (B,), a mean over the batch.
        **kwargs: As for `Trainer`, without `model`.
    """

    def __init__(
        self,
        tuned: Tuned,
        *,
        images: str = "pixel_values",
        labels: str = "labels",
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=tuned.model, **kwargs)
        self._tuned, self._moments = tuned, Moments(tuned)
        self._names, self._given_criterion = (images, labels), criterion
        self._optimizer_is_given = self.optimizer is not None
        self.label_names = [labels]
        self._signature_columns = [images, labels]  # a timm model's forward names its input otherwise
        self.add_callback(_Steps(self._moments))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train all stages; arguments as for `Trainer.train`.

        Raises:
            TrainingError: If another stage is asked for and the optimizer was given, so that none can be made.
        """
        output = super().train(*args, **kwargs)
        while self._moments.another_stage:
            if self._optimizer_is_given:
                raise TrainingError(
                    "another stage of training needs a fresh optimizer; leave making it to the Trainer."
                )
            self.optimizer = self.lr_scheduler = None
            output = super().train()
        return output

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Before the optimizer is made, policies hear of the run and look at the data."""
        batches = Batches(self.get_train_dataloader(), self._read, self.args.device)
        run = Run(self.args.seed, self.args.learning_rate, self.state.max_steps, batches)
        self._moments.begin(run, _restored(self.args, self.state, self._tuned))
        return super().create_optimizer(model)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of a part of a batch, in as many passes as the policies make.

        Returns:
            The mean loss, scaled by the number of parts.
        """
        model.train()
        images, labels = self._read(self._prepare_inputs(inputs))
        policies, total = self._tuned.policies, images.new_zeros((), dtype=torch.float32)
        left = moments.passes(policies)
        losses = moments.losses(policies, lambda x: logits(model, x), images, labels, self._criterion)
        while left:
            left -= 1
            with self.accelerator.no_sync(model) if left else nullcontext():
                with self.compute_loss_context_manager():
                    loss = next(losses) / self.current_gradient_accumulation_steps
                self.accelerator.backward(loss)
            total += loss.detach()
        losses.close()
        if self.accelerator.sync_gradients:
            self._moments.after_backward()
        return total

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The criterion alone, as in evaluation."""
        images, labels = self._read(inputs)
        scores = logits(model, images)
        loss = self._criterion(scores, labels)
        return (loss, {"logits": scores}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits (B, C) and labels (B,) of a batch; without labels there is no loss."""
        images, labels = self._names
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            scores = logits(model, inputs[images])
            loss = self._criterion(scores, inputs[labels]) if labels in inputs else None
        return loss, None if prediction_loss_only else scores, inputs.get(labels)

    def _criterion(self, scores: Tensor, targets: Tensor) -> Tensor:
        if self._given_criterion is not None:
            return self._given_criterion(scores, targets)
        return F.cross_entropy(scores.float(), targets, label_smoothing=self.args.label_smoothing_factor)

    def _read(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        images, labels = self._names
        return batch[images], batch[labels]


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _restored(args: TrainingArguments, state: TrainerState, tuned: Tuned) -> list[dict[str, Any]] | None:
    """Put back what the checkpoint that is resumed holds; what its policies remembered, or None where a run starts."""
    if not state.global_step:
        return None
    file = _checkpoint(args, state) / STATE
    if not file.is_file():
        raise RunError(f"the state of tuning '{file}' is missing, so training cannot go on; start anew.")
    kept = torch.load(file, weights_only=True, map_location=args.device)
    tuned.load_state(kept["tensors"])
    return kept["policies"]

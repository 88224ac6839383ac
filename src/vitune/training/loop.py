"""The training loop: stages of epochs of steps, with evaluation, selection and checkpoints.

Everything random is a function of (seed, epoch, image) or (seed, step), so that a run that was killed and
resumed ends bit-equal to one that was not. When policies act is written in `vitune.training.moments`.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitune.methods import Run
from vitune.randomness import derive_seed, seeded
from vitune.training import moments
from vitune.training.advice import learning_rate, settings_without_effect
from vitune.training.batches import check_batch_size, evaluation_batches, make_loader, steps_per_epoch
from vitune.training.checkpoint import Checkpoint, save_checkpoint
from vitune.training.config import TrainConfig
from vitune.training.data import FitData
from vitune.training.devices import make_accelerator
from vitune.training.evaluate import Evaluation, evaluate
from vitune.training.events import OnEvent, ignore
from vitune.training.feature_cache import cached_features
from vitune.training.files import CHECKPOINT_FOLDER, LOG_FILE, find_checkpoint
from vitune.training.interrupt import Interrupt
from vitune.training.journal import Journal, epoch_line, progress_values, start_line
from vitune.training.log import RunLog
from vitune.training.meter import Meter
from vitune.training.modes import train_mode
from vitune.training.prepare import PreparationBatches
from vitune.training.result import FitResult, Status
from vitune.training.selection import Selection
from vitune.training.stage import Stage
from vitune.training.state import Progress, pack, unpack, zero_loss
from vitune.training.step import Logits

if TYPE_CHECKING:
    from vitune.tuned import Tuned


def fit(
    tuned: Tuned,
    data: FitData,
    config: TrainConfig,
    *,
    directory: Path | None = None,
    resume: bool = False,
    on_event: OnEvent = ignore,
) -> FitResult:
    """Train what the methods let train; afterwards the model has the selected weights.

    Args:
        tuned: The model with methods applied, as it was before the first step, also when resuming.
        data: Images to train on and to choose by.
        config: Settings.
        directory: Where the log and the checkpoints go; it must exist. None keeps neither.
        resume: Whether to go on from the checkpoint in the directory, or from the start if none was made yet.
        on_event: Is told what happens.

    Raises:
        ConfigError: If the batch is larger than the data, or the device or precision is not available.
        RunError: If the directory holds a run already, the checkpoint does not fit, or the disk is full.
        TrainingError: If the loss is not finite or a trainable parameter gets no gradient.
    """
    check_batch_size(config.batch_size, data.train_images)
    checkpoint = find_checkpoint(directory, resume)
    accelerator = make_accelerator(config.device, config.precision, uneven_gradients=bool(tuned.policies))
    log = None
    if directory is not None and accelerator.is_main_process:
        offset = checkpoint.state["log_offset"] if checkpoint is not None else 0
        log = RunLog(directory / LOG_FILE, int(offset))  # pyright: ignore[reportArgumentType]
    with seeded(derive_seed(config.seed, "fit")), Interrupt() as interrupt, log or contextlib.nullcontext():
        journal = Journal(log, on_event, silent=not accelerator.is_main_process)
        return _Loop(tuned, data, config, accelerator, journal, interrupt, directory, checkpoint).run()


class _Loop:
    """One fit while it runs."""

    def __init__(
        self,
        tuned: Tuned,
        data: FitData,
        config: TrainConfig,
        accelerator: Any,
        journal: Journal,
        interrupt: Interrupt,
        directory: Path | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._tuned, self._config, self._accelerator = tuned, config, accelerator
        self._journal, self._interrupt, self._directory = journal, interrupt, directory
        self._lr = learning_rate(config, tuned.methods)
        self._per_epoch = steps_per_epoch(data.train_images, config.batch_size, drop_last=config.drop_last)
        tuned.model.to(accelerator.device)
        if config.memory != "auto":
            tuned.memory = config.memory
        batches = PreparationBatches(data, config, accelerator.device)
        moments.begin(tuned.policies, Run(config.seed, self._lr, config.epochs * self._per_epoch, batches))
        self._restored = None if checkpoint is None else checkpoint.tensors
        if checkpoint is None:
            moments.prepare(tuned.policies, batches)
            self._progress = Progress(Selection(config.early_stop), zero_loss(accelerator.device))
        else:
            self._progress = unpack(checkpoint, tuned, config, accelerator)
        self._saved_at, self._saved_step = time.monotonic(), self._progress.step
        cached = cached_features(tuned, data, config, accelerator)
        self._forward = Logits(tuned) if cached is None else cached.head
        self._data = data if cached is None else cached.data
        self._workers = config.workers if cached is None else 0
        self._validation = self._validation_batches()
        self._announce(resumed=checkpoint is not None, feature_cache=cached is not None)

    def run(self) -> FitResult:
        """All stages from where the run is."""
        progress = self._progress
        while not progress.finished:
            stage = self._begin_stage()
            self._train(stage)
            if not self._is_over(stage):
                self._save(stage)
                return self._result("interrupted", None)
            if moments.next_stage(self._tuned.policies):
                self._turn_to_next_stage()
            else:
                self._settle(stage)
                self._save(stage)
        if progress.best:
            self._tuned.load_state(progress.best)
        return self._result("finished", self._evaluate())

    def _begin_stage(self) -> Stage:
        start = self._progress.stage_start
        stage = Stage(
            self._tuned, self._forward, self._data, self._config, self._lr, self._accelerator, start
        )
        if self._restored is not None:
            stage.restore(self._restored)
            self._restored = None
        return stage

    def _train(self, stage: Stage) -> None:
        """Steps until the stage is over or Ctrl-C was pressed."""
        if self._is_over(stage):
            return
        progress, config = self._progress, self._config
        batches = iter(stage.batches(progress.step, self._workers))
        train_mode(self._tuned)
        meter = Meter()
        while not self._is_over(stage):
            with meter.waiting():
                inputs, labels, indices = next(batches)
            step = progress.step
            loss = stage.step(step, inputs, labels, indices)
            progress.loss_sum += loss * stage.own_images(step)
            progress.step += 1
            meter.stepped(stage.images(step))
            if progress.step % config.log_every == 0:
                self._log_step(stage, step, loss)
            self._tell_progress(stage, meter)
            if progress.step % self._per_epoch == 0:
                self._end_epoch(stage, meter)
                meter = Meter()
            if self._agreed(self._interrupt.requested):
                return
            if self._agreed(self._save_is_due()):
                self._save(stage)

    def _is_over(self, stage: Stage) -> bool:
        return self._progress.step >= stage.end or self._progress.selection.should_stop

    def _log_step(self, stage: Stage, step: int, loss: Tensor) -> None:
        stage.watch.check()
        mean = self._summed(loss * stage.own_images(step)) / stage.images(step)
        line = {"step": step + 1, "epoch": self._epoch(step), "loss": float(mean), "lr": stage.lr(step)}
        self._journal.note("step", line | moments.log(self._tuned.policies))

    def _tell_progress(self, stage: Stage, meter: Meter) -> None:
        step, per_epoch = self._progress.step, self._per_epoch
        values = progress_values(
            meter, step=step, steps=stage.end, epoch=self._epoch(step - 1), epochs=stage.end // per_epoch
        )
        self._journal.tell("progress", values)

    def _end_epoch(self, stage: Stage, meter: Meter) -> None:
        progress, images = self._progress, self._data.train_images
        if self._config.drop_last:
            images = self._per_epoch * self._config.batch_size
        stage.watch.check()
        step, epoch = progress.step, self._epoch(progress.step - 1)
        loss = float(self._summed(progress.loss_sum)) / images
        progress.loss_sum = zero_loss(self._accelerator.device)
        line = epoch_line(meter, epoch=epoch, step=step, lr=stage.lr(step - 1), loss=loss, images=images)
        in_stage = epoch - progress.stage_start // self._per_epoch
        if in_stage % self._config.eval_every == 0 or step >= stage.end:
            line |= self._select(stage, epoch)
        progress.history.append(line)
        self._journal.note("epoch", line)

    def _select(self, stage: Stage, epoch: int) -> dict[str, Any]:
        """Evaluate an epoch, and keep its weights if they are the best so far."""
        progress = self._progress
        with stage.ema.applied() if stage.ema is not None else contextlib.nullcontext():
            found = self._evaluate()
            if found is None:
                return {}
            if progress.selection.update(epoch, found.accuracy, found.loss) and self._config.select == "best":
                progress.best = _copied(self._tuned)
        return {"val_loss": found.loss, "val_accuracy": found.accuracy}

    def _evaluate(self) -> Evaluation | None:
        if self._validation is None:
            return None
        return evaluate(self._tuned.model, self._forward, self._validation, self._accelerator)

    def _turn_to_next_stage(self) -> None:
        progress = self._progress
        progress.stage, progress.stage_start = progress.stage + 1, progress.step
        progress.selection, progress.best = Selection(self._config.early_stop), {}
        self._journal.note("stage", {"stage": progress.stage, "step": progress.step})

    def _settle(self, stage: Stage) -> None:
        """End the run; averaged weights are what counts where no epoch was chosen."""
        self._progress.finished = True
        if stage.ema is not None and not self._progress.best:
            with stage.ema.applied():
                self._progress.best = _copied(self._tuned)

    def _save_is_due(self) -> bool:
        minutes, steps = self._config.checkpoint_minutes, self._config.checkpoint_steps
        by_clock = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return by_clock or (steps is not None and self._progress.step - self._saved_step >= steps)

    def _save(self, stage: Stage) -> None:
        if self._directory is None:
            return
        stage.watch.check()
        summed = self._summed(self._progress.loss_sum)
        if self._accelerator.is_main_process:
            tensors, values = pack(self._progress, self._tuned, self._config, self._accelerator, summed)
            values["log_offset"] = self._journal.offset()
            folder = self._directory / CHECKPOINT_FOLDER
            save_checkpoint(folder, self._progress.step, tensors | stage.tensors(), values)
        self._accelerator.wait_for_everyone()
        self._saved_at, self._saved_step = time.monotonic(), self._progress.step
        self._journal.tell("checkpoint", {"step": self._progress.step})

    def _agreed(self, wish: bool) -> bool:
        """Whether any process wishes it; several of them ask each other only at the steps that are logged."""
        if self._accelerator.num_processes == 1:
            return wish
        if self._progress.step % self._config.log_every:
            return False
        return bool(self._summed(torch.tensor(float(wish), device=self._accelerator.device)) > 0)

    def _summed(self, value: Tensor) -> Tensor:
        return self._accelerator.reduce(value, reduction="sum")

    def _epoch(self, step: int) -> int:
        return step // self._per_epoch + 1

    def _validation_batches(self) -> Any:
        if self._data.validation is None:
            return None
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        keys = evaluation_batches(self._data.validation_images, self._config.batch_size, rank, world)
        pin = self._accelerator.device.type == "cuda"
        return make_loader(self._data.validation, keys, self._workers, pin=pin)

    def _announce(self, *, resumed: bool, feature_cache: bool) -> None:
        trained = sum(p.numel() for p in self._tuned.trainable().values())
        values = start_line(self._config, self._data, self._accelerator, lr=self._lr, trained=trained)
        values |= {"steps": self._per_epoch * self._config.epochs, "feature_cache": feature_cache}
        if resumed:  # the log has this line already, and is to end as if nothing had happened
            self._journal.tell("start", {**values, "resumed_step": self._progress.step})
            return
        self._journal.note("start", values)
        for text in settings_without_effect(self._config, has_validation=self._data.validation is not None):
            self._journal.note("warning", {"message": text})

    def _result(self, status: Status, validation: Evaluation | None) -> FitResult:
        progress = self._progress
        chosen = self._config.select == "best" and self._validation is not None
        epoch = progress.selection.epoch if chosen else self._epoch(progress.step - 1)
        return FitResult(
            status=status,
            steps=progress.step,
            epochs=progress.history,
            best_epoch=epoch if status == "finished" else None,
            validation=validation,
            protocol="val: best epoch" if chosen else "last epoch",
            lr=self._lr,
        )


def _copied(tuned: Tuned) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tuned.state().items()}

"""One stage of training: its optimizer, schedule, averaged weights and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vitune.training.batches import StepSampler, make_loader, own_count, steps_per_epoch
from vitune.training.data import FitData
from vitune.training.ema import Ema
from vitune.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from vitune.training.schedule import LearningRate
from vitune.training.state import below, prefixed
from vitune.training.step import Stepper
from vitune.training.watch import LossWatch

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig
    from vitune.tuned import Tuned


class Stage:
    """What lives as long as a stage does; steps are counted from the start of the run.

    Args:
        tuned: The model; what trains is looked up now.
        forward: Gives logits for the inputs of the data.
        data: What to train on.
        config: Settings of the run.
        lr: Peak learning rate.
        accelerator: Device, precision and processes.
        start: Steps that were done before this stage.
    """

    def __init__(
        self,
        tuned: Tuned,
        forward: nn.Module,
        data: FitData,
        config: TrainConfig,
        lr: float,
        accelerator: Accelerator,
        start: int,
    ) -> None:
        self._data, self._config, self._accelerator, self._start = data, config, accelerator, start
        self._per_epoch = steps_per_epoch(data.train_images, config.batch_size, drop_last=config.drop_last)
        self.end = start + config.epochs * self._per_epoch
        self._parameters = tuned.trainable()
        self._optimizer = build_optimizer(tuned, config)
        self._schedule = LearningRate(
            peak=lr,
            minimum=config.min_lr,
            steps=self.end - start - config.cooldown_epochs * self._per_epoch,
            warmup_steps=round(config.warmup_epochs * self._per_epoch),
            kind=config.schedule,
            warmup_from=config.warmup_lr,
            cosine_from=config.cosine_from,
            every=1 if config.lr_every == "step" else self._per_epoch,
            late=config.lr_every == "late epoch",
        )
        self.watch = LossWatch(data.name_of)
        self._stepper = Stepper(
            tuned,
            accelerator.prepare_model(forward),
            accelerator.prepare_optimizer(self._optimizer),
            accelerator,
            config,
            data.num_classes,
            self.watch,
        )
        self.ema = None if config.ema is None else Ema(tuned, config.ema)

    def batches(self, step: int, workers: int) -> DataLoader[Any]:
        """This process's part of the batches that are left.

        Args:
            step: Steps that are done.
            workers: Processes that read.
        """
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        config = self._config
        keys = StepSampler(
            self._data.train_images,
            config.batch_size,
            config.seed,
            step,
            self.end,
            rank,
            world,
            drop_last=config.drop_last,
        )
        return make_loader(self._data.train, keys, workers, pin=self._accelerator.device.type == "cuda")

    def lr(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: The step.
        """
        return self._schedule.at(step - self._start)

    def images(self, step: int) -> int:
        """Images of a step's batch, over all processes.

        Args:
            step: The step.
        """
        is_last = not self._config.drop_last and step % self._per_epoch == self._per_epoch - 1
        before = (self._per_epoch - 1) * self._config.batch_size
        return self._data.train_images - before if is_last else self._config.batch_size

    def own_images(self, step: int) -> int:
        """Images of a step's batch that this process counts.

        Args:
            step: The step.
        """
        return own_count(self.images(step), self._accelerator.process_index, self._accelerator.num_processes)

    def step(self, step: int, inputs: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Train on one batch.

        Args:
            step: The step.
            inputs: Inputs of this process's part.
            labels: (B,).
            indices: (B,), the images.

        Returns:
            The mean loss of this part, a scalar on the device.
        """
        weight = self.own_images(step) * self._accelerator.num_processes / self.images(step)
        loss = self._stepper.step(
            inputs, labels, indices.tolist(), step=step, lr=self.lr(step), weight=weight
        )
        if self.ema is not None:
            self.ema.update()
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """State of the optimizer and of the averaged weights."""
        own = prefixed("optimizer", optimizer_tensors(self._optimizer, self._parameters))
        return own | (prefixed("ema", self.ema.tensors) if self.ema is not None else {})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Give back what `tensors` gave.

        Args:
            tensors: All tensors of a checkpoint.
        """
        load_optimizer_tensors(self._optimizer, self._parameters, below("optimizer", tensors))
        if self.ema is not None:
            self.ema.load(below("ema", tensors))

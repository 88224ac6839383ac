"""The loop of a pre-training run: its model, images and state, from one checkpoint to the next."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.config import resolve_model_data_config
from timm.data.mixup import mixup_target
from timm.optim._optim_factory import create_optimizer_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from vitune.durable import replace_file
from vitune.errors import TrainingError
from vitune.ops.attention_backward import float32_attention_gradients
from vitune.randomness import derive_seed
from vitune.training.augment_batch import BatchAugmentation, normalise
from vitune.training.checkpoint import load_checkpoint, save_checkpoint
from vitune.training.config import TrainConfig
from vitune.training.decoded_images import DecodedImages
from vitune.training.devices import make_accelerator
from vitune.training.events import Event, EventKind, OnEvent
from vitune.training.interrupt import Interrupt
from vitune.training.log import RunLog
from vitune.training.mixing import Mixing
from vitune.training.optimizer import load_optimizer_tensors, optimizer_tensors
from vitune.training.pretrain_card import CARD_FILE, run_card
from vitune.training.pretrain_config import PretrainConfig
from vitune.training.pretrain_model import WEIGHTS_FILE, save_weights
from vitune.training.schedule import LearningRate
from vitune.training.state import below, prefixed, zero_loss

LOG_FILE = "log.jsonl"
CHECKPOINT_FOLDER = "checkpoint"
_EVALUATION_BATCH = 500


@dataclass
class _Progress:
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Pretraining:
    """One run: its model, images and state.

    Args:
        config: The settings.
        model: The model, with the weights to start from.
        train: The training images.
        val: The validation images.
        class_names: Names of the classes.
        on_event: Told of every step and epoch.

    Raises:
        ConfigError: If the machine has not the device or the precision.
    """

    def __init__(
        self,
        config: PretrainConfig,
        model: nn.Module,
        train: DecodedImages,
        val: DecodedImages,
        class_names: tuple[str, ...],
        on_event: OnEvent,
    ) -> None:
        self.config, self.on_event = config, on_event
        self.class_names, self.num_classes = class_names, len(class_names)
        accelerator = make_accelerator(config.device, config.precision)
        self.device = accelerator.device
        self._autocast = accelerator.mixed_precision == "bf16"
        self.train, self.val = train.to(self.device), val.to(self.device)
        self.model = model.to(self.device)
        self.ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=True, foreach=True)
        self.optimizer = create_optimizer_v2(
            self.model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay
        )
        data_config = resolve_model_data_config(self.model)
        self.augment = BatchAugmentation(
            crop_min_area=config.crop_min_area,
            flip=config.flip,
            jitter=config.jitter,
            erase=config.erase,
            mean=data_config["mean"],
            std=data_config["std"],
        )
        self.mix = Mixing(_mixing_config(config), self.num_classes) if config.mixup or config.cutmix else None
        self.steps_per_epoch = len(train) // config.batch_size
        self.steps = self.steps_per_epoch * config.epochs
        self.learning_rate = LearningRate(
            peak=config.lr,
            minimum=0.0,
            steps=self.steps,
            warmup_steps=min(self.steps, round(config.warmup_epochs * self.steps_per_epoch)),
            kind="cosine",
        )
        self.progress = _Progress()
        self.loss_sum = zero_loss(self.device)  # of the steps of this epoch so far
        self._order = (-1, torch.empty(0, dtype=torch.int64))

    def go(self, interrupt: Interrupt) -> None:
        """Train from where the checkpoint is to the end.

        Args:
            interrupt: Says when the user wants to stop.

        Raises:
            KeyboardInterrupt: Once a checkpoint is saved, if the user wanted to stop.
            RunError: If the run directory cannot be written, or its checkpoint is corrupt.
            TrainingError: If the loss is not finite.
        """
        offset = self._restore()
        with RunLog(self.config.out / LOG_FILE, offset) as log:
            if offset == 0:
                self._tell(
                    log, "start", {"steps": self.steps, "train": len(self.train), "val": len(self.val)}
                )
            last_saved = time.monotonic()
            while self.progress.step < self.steps:
                self._epoch_part(log, interrupt, last_saved)
                last_saved = time.monotonic()
                self._save(log)
                if interrupt.requested:
                    raise KeyboardInterrupt
            self._tell(log, "final", {"val_accuracy": self.progress.history[-1]["val_accuracy"]})

    def _epoch_part(self, log: RunLog, interrupt: Interrupt, last_saved: float) -> None:
        """Steps until the epoch ends, a checkpoint is due or the user interrupts."""
        start, images, before = time.monotonic(), 0, self.progress.seconds
        while True:
            loss, lr = self._step(self.progress.step)
            self.progress.step += 1
            images += self.config.batch_size
            now = time.monotonic()
            self.progress.seconds = before + now - start
            if self.progress.step % self.config.log_every == 0:
                self._report(log, float(loss), lr, images / (now - start))
            ended = self.progress.step % self.steps_per_epoch == 0
            due = interrupt.requested or now - last_saved >= 60 * self.config.checkpoint_minutes
            if ended or due or self.device.type == "cpu":  # on a GPU a look at every loss would make it wait
                self._check_finite(lr)
            if ended:
                self._end_epoch(log, images / (now - start), lr)
            if ended or due:
                return

    def _step(self, step: int) -> tuple[Tensor, float]:
        seed = self.config.seed
        chosen = self._batch(step)
        pixels = self.train.pixels[chosen].to(self.device)
        labels = self.train.labels[chosen].to(self.device)
        images = self.augment(pixels, derive_seed(seed, "augment", step))
        if self.mix is not None:
            images, targets = self.mix(images, labels, step)
        else:
            targets = mixup_target(labels, self.num_classes, smoothing=self.config.label_smoothing)
        lr = self.learning_rate.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(derive_seed(seed, "model", step))  # dropout and drop path
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), targets)
        with float32_attention_gradients(self.device):
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, step + 1)
        self.loss_sum += loss.detach()
        return loss.detach(), lr

    def _batch(self, step: int) -> Tensor:
        """Indices of the training images of a step, a function of the seed and the step alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "order", epoch))
            order = torch.randperm(len(self.train), generator=generator)
            self._order = (epoch, order.to(self.train.pixels.device))
        batch = self.config.batch_size
        return self._order[1][place * batch : (place + 1) * batch]

    def _check_finite(self, lr: float) -> None:
        if not torch.isfinite(self.loss_sum):
            raise TrainingError(
                f"The loss is not finite by step {self.progress.step}, with lr {lr:g}; "
                "use a smaller lr, a smaller clip_norm or fp32."
            )

    def _report(self, log: RunLog, loss: float, lr: float, rate: float) -> None:
        step = self.progress.step
        epoch = (step - 1) // self.steps_per_epoch + 1
        log.write("step", {"step": step, "epoch": epoch, "loss": loss, "lr": lr})
        left = (self.steps - step) * self.config.batch_size / rate
        values = {
            "step": step,
            "steps": self.steps,
            "epoch": epoch,
            "epochs": self.config.epochs,
            "loss": loss,
        }
        self.on_event(Event("step", {**values, "lr": lr, "images_per_second": rate, "seconds_left": left}))

    def _end_epoch(self, log: RunLog, rate: float, lr: float) -> None:
        """Validate the averaged weights as they are saved, and replace weights and card."""
        weights = save_weights(self.ema.module.state_dict(), self.config.out / WEIGHTS_FILE)
        val_loss, accuracy = self._validate(weights)
        step = self.progress.step
        line = {
            "epoch": step // self.steps_per_epoch,
            "step": step,
            "lr": lr,
            "train_loss": float(self.loss_sum) / self.steps_per_epoch,
            "train_images": self.steps_per_epoch * self.config.batch_size,
            "val_loss": val_loss,
            "val_accuracy": accuracy,
            "seconds": self.progress.seconds,
            "images_per_second": rate,
        }
        self.loss_sum.zero_()
        self.progress.history.append(line)
        card = json.dumps(run_card(self, self.progress.history, self.progress.seconds), indent=2)
        replace_file(self.config.out / CARD_FILE, lambda path: path.write_text(card + "\n", encoding="utf-8"))
        self._tell(log, "epoch", line)

    @torch.inference_mode()
    def _validate(self, weights: dict[str, Tensor]) -> tuple[float, float]:
        """Mean cross entropy and top-1 accuracy of the weights on the validation images."""
        own = {name: tensor.clone() for name, tensor in self.ema.module.state_dict().items()}
        self.ema.module.load_state_dict(weights)
        loss, right = 0.0, 0
        for at in range(0, len(self.val), _EVALUATION_BATCH):
            pixels = self.val.pixels[at : at + _EVALUATION_BATCH].to(self.device).float().div_(255)
            labels = self.val.labels[at : at + _EVALUATION_BATCH].to(self.device)
            images = normalise(pixels, self.augment.mean, self.augment.std)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                logits = self.ema.module(images)
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        self.ema.module.load_state_dict(own)
        return loss / len(self.val), right / len(self.val)

    def _tell(self, log: RunLog, kind: EventKind, values: dict[str, Any]) -> None:
        log.write(kind, values)
        self.on_event(Event(kind, values))

    def _save(self, log: RunLog) -> None:
        log.sync()
        tensors = {
            "loop/loss_sum": self.loss_sum,
            **prefixed("model", self.model.state_dict()),
            **prefixed("ema", self.ema.module.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer, dict(self.model.named_parameters()))),
        }
        state = {"log_offset": log.offset, "seconds": self.progress.seconds, "history": self.progress.history}
        save_checkpoint(self.config.out / CHECKPOINT_FOLDER, self.progress.step, tensors, state)

    def _restore(self) -> int:
        """Load the newest checkpoint, if there is one; returns how much of the log belongs to it."""
        checkpoint = load_checkpoint(self.config.out / CHECKPOINT_FOLDER)
        if checkpoint is None:
            return 0
        state: dict[str, Any] = checkpoint.state
        self.model.load_state_dict(below("model", checkpoint.tensors))
        self.ema.module.load_state_dict(below("ema", checkpoint.tensors))
        load_optimizer_tensors(
            self.optimizer, dict(self.model.named_parameters()), below("optimizer", checkpoint.tensors)
        )
        self.loss_sum.copy_(checkpoint.tensors["loop/loss_sum"])
        self.progress = _Progress(checkpoint.step, state["seconds"], state["history"])
        return state["log_offset"]


def _mixing_config(config: PretrainConfig) -> TrainConfig:
    return TrainConfig(
        mixup=config.mixup, cutmix=config.cutmix, label_smoothing=config.label_smoothing, seed=config.seed
    )

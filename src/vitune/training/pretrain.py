"""Supervised pre-training of a timm architecture from random weights, resumable at every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import timm.optim
import torch

from vitune.durable import replace_file
from vitune.errors import ConfigError, DataError, RunError
from vitune.randomness import derive_seed
from vitune.training.decoded_images import decode_images
from vitune.training.events import OnEvent, ignore
from vitune.training.interrupt import Interrupt
from vitune.training.pretrain_config import PretrainConfig
from vitune.training.pretrain_loop import Pretraining
from vitune.training.pretrain_model import build_model

if TYPE_CHECKING:
    from vitune.data import Samples

CONFIG_FILE = "config.json"


def pretrain(config: PretrainConfig, on_event: OnEvent = ignore) -> Path:
    """Pre-train from the start.

    Args:
        config: What, from what and how.
        on_event: Told of every step and epoch.

    Returns:
        The run directory: config.json, log.jsonl, checkpoint/, weights.safetensors (fp16, the averaged
        weights) and card.json, the last two replaced after every epoch.

    Raises:
        RunError: If `config.out` is there already, or cannot be written.
        ConfigError: If settings contradict the data or the machine.
        DataError: If the data cannot be read.
        TrainingError: If the loss is not finite.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is saved.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise RunError(
            f"The run directory {config.out} is there already; give another one, or resume it with --resume."
        )
    return _run(config, on_event, start=True)


def resume_pretraining(run: Path, on_event: OnEvent = ignore) -> Path:
    """Go on with a run that was stopped, as if it had not been.

    Args:
        run: The run directory.
        on_event: Told of every step and epoch.

    Returns:
        The run directory.

    Raises:
        RunError: If it is not a run of `pretrain`, or its checkpoint is corrupt.
        KeyboardInterrupt: After Ctrl-C, once a checkpoint is saved.
    """
    path = run / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"{run} is not a run of vitune pretrain: {CONFIG_FILE} cannot be read there."
        ) from error
    return _run(PretrainConfig.from_dict({**values, "out": run}), on_event, start=False)


def _run(config: PretrainConfig, on_event: OnEvent, *, start: bool) -> Path:
    # Weights and dropout draw from the global generators, which the caller gets back as they were.
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))), Interrupt() as interrupt:
        # What can be wrong is found before anything is written, and before all images are decoded.
        class_names, train, val = _open(config)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        model = build_model(config, len(class_names))
        if start:
            _write_config(config)
        decoded = [
            decode_images(samples, config.image_size, config.workers, config.out / f"decoded-{split}.bin")
            for split, samples in (("train", train), ("val", val))
        ]
        Pretraining(config, model, decoded[0], decoded[1], class_names, on_event).go(interrupt)
    return config.out


def _open(config: PretrainConfig) -> tuple[tuple[str, ...], Samples, Samples]:
    from vitune.data import open_source  # the readers are only needed once a run starts

    known = timm.optim.list_optimizers()  # pyright: ignore[reportPrivateImportUsage] (it is public in its docs)
    if config.optimizer not in known:
        raise ConfigError(
            f"timm {timm.__version__} has no optimizer '{config.optimizer}'; update timm, or choose adamw."
        )
    source = open_source(config.data)
    train, val = source.split("train"), source.split("val")
    if train is None or val is None:
        raise DataError(f"'{config.data}' has no train and val split; pre-training needs both.")
    if config.batch_size > len(train):
        raise ConfigError(
            f"batch_size {config.batch_size} is larger than the {len(train)} training images; make it smaller."
        )
    return tuple(source.class_names), train, val


def _write_config(config: PretrainConfig) -> None:
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        replace_file(config.out / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"The run directory {config.out} cannot be written ({error.strerror}).") from error

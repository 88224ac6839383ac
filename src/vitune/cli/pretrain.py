"""`vitune pretrain`: train a backbone from random weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from vitune.cli.options import MACHINE, MODEL, RUN, TRAINING
from vitune.errors import ConfigError

_AUGMENTATION = "Augmentation"


def _option(flag: str, kind: str, text: str, panel: str) -> Any:
    return typer.Option(flag, metavar=kind, help=text, rich_help_panel=panel, show_default=False)


def pretrain(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Labelled images to train on.", show_default=False)
    ] = None,
    out: Annotated[Path | None, _option("--out", "DIR", "Run directory to make.", RUN)] = None,
    resume: Annotated[
        Path | None, _option("--resume", "DIR", "Go on with this run; nothing else is given then.", RUN)
    ] = None,
    checkpoint_minutes: Annotated[
        float | None, _option("--checkpoint-minutes", "X", "Minutes between two checkpoints.", RUN)
    ] = None,
    log_every: Annotated[
        int | None, _option("--log-every", "N", "Steps between two lines of the log.", RUN)
    ] = None,
    arch: Annotated[str | None, _option("--arch", "NAME", "timm architecture.", MODEL)] = None,
    model_args: Annotated[
        list[str] | None,
        _option("--model-args", "NAME=VALUE", "Argument of the architecture; may be repeated.", MODEL),
    ] = None,
    image_size: Annotated[
        int | None, _option("--image-size", "N", "Height and width in pixels.", MODEL)
    ] = None,
    init_from: Annotated[
        Path | None,
        _option("--init-from", "PATH", "Run or weights to start from; embeddings are resized.", MODEL),
    ] = None,
    epochs: Annotated[int | None, _option("--epochs", "N", "Passes over the data.", TRAINING)] = None,
    batch_size: Annotated[
        int | None, _option("--batch-size", "N", "Images per step, an even number.", TRAINING)
    ] = None,
    lr: Annotated[float | None, _option("--lr", "X", "Peak learning rate.", TRAINING)] = None,
    optimizer: Annotated[str | None, _option("--optimizer", "adamw|muon", "Optimizer.", TRAINING)] = None,
    weight_decay: Annotated[
        float | None, _option("--weight-decay", "X", "Decay of matrices.", TRAINING)
    ] = None,
    warmup_epochs: Annotated[
        float | None, _option("--warmup-epochs", "X", "Length of the warm-up.", TRAINING)
    ] = None,
    clip_norm: Annotated[
        float | None, _option("--clip-norm", "X", "Largest norm of the gradient.", TRAINING)
    ] = None,
    ema: Annotated[
        float | None, _option("--ema", "X", "Decay of the averaged weights, which are kept.", TRAINING)
    ] = None,
    label_smoothing: Annotated[
        float | None,
        _option("--label-smoothing", "X", "Share of the target spread over all classes.", TRAINING),
    ] = None,
    seed: Annotated[int | None, _option("--seed", "N", "Seed of everything random.", TRAINING)] = None,
    mixup: Annotated[
        float | None, _option("--mixup", "X", "Alpha of mixup; 0 is off.", _AUGMENTATION)
    ] = None,
    cutmix: Annotated[
        float | None, _option("--cutmix", "X", "Alpha of cutmix; 0 is off.", _AUGMENTATION)
    ] = None,
    crop_min_area: Annotated[
        float | None,
        _option("--crop-min-area", "X", "Smallest share of the area that a crop keeps.", _AUGMENTATION),
    ] = None,
    flip: Annotated[
        bool | None, _option("--flip/--no-flip", "", "Mirror half of the images.", _AUGMENTATION)
    ] = None,
    jitter: Annotated[
        float | None, _option("--jitter", "X", "Strength of colour jitter.", _AUGMENTATION)
    ] = None,
    erase: Annotated[
        float | None, _option("--erase", "X", "Share of images that lose a rectangle.", _AUGMENTATION)
    ] = None,
    precision: Annotated[
        str | None, _option("--precision", "auto|fp32|bf16", "Of computation.", MACHINE)
    ] = None,
    device: Annotated[
        str | None, _option("--device", "auto|cpu|cuda|mps", "Where to compute.", MACHINE)
    ] = None,
    workers: Annotated[
        int | None, _option("--workers", "N", "Processes that decode images.", MACHINE)
    ] = None,
) -> None:
    """Pre-train a timm architecture from random weights, supervised, resumable.

    Leaves a run directory with weights (half precision, averaged) and their card.
    """
    options = {name: value for name, value in locals().items() if value is not None and name != "resume"}
    if resume is not None:
        if options:
            option = f"--{next(iter(options)).replace('_', '-')}" if data is None else "DATA"
            raise ConfigError(
                f"--resume goes on with a run as it was started, so {option} cannot be given with it."
            )
        _run(resume, None)
        return
    if data is None or out is None:
        raise ConfigError("pre-training needs data and a run directory: vitune pretrain DATA --out DIR.")
    from vitune.training.pretrain_config import PretrainConfig

    options["model_args"] = dict(_argument(word) for word in model_args or ())
    _run(out, PretrainConfig(**options))


def _argument(word: str) -> tuple[str, Any]:
    name, equals, text = (part.strip() for part in word.partition("="))
    if not equals or not name or not text:
        raise ConfigError(f"cannot read --model-args '{word}'; write --model-args name=value.")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text  # a word, which JSON would have in quotes


def _run(directory: Path, config: Any) -> None:
    """Start, or go on where there is no configuration, and print what came of it."""
    from vitune.cli.console import console
    from vitune.cli.pretraining_view import PretrainingView
    from vitune.cli.stopped import Stopped
    from vitune.training.loop import CHECKPOINT_FOLDER
    from vitune.training.pretrain import pretrain, resume_pretraining

    out = console()
    view = PretrainingView(out)
    try:
        if config is None:
            resume_pretraining(directory, view)
        else:
            pretrain(config, view)
    except KeyboardInterrupt:
        if not (directory / CHECKPOINT_FOLDER).is_dir():
            raise Stopped("stopped before the first checkpoint.") from None
        again = f"vitune pretrain --resume {shlex.quote(str(directory))}"
        raise Stopped(f"stopped, and saved; go on with: {again}") from None
    out.print(f"weights and card are in {directory}", soft_wrap=True)

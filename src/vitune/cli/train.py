"""`vitune train`: fine-tune a backbone, or go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitune.cli.options import (
    DATA,
    MACHINE,
    MODEL,
    RUN,
    TRAINING,
    AnySetting,
    BatchSize,
    Device,
    Epochs,
    ImageColumn,
    LabelColumn,
    LearningRate,
    ModelName,
    OnBadImage,
    Precision,
    Seed,
    TestDomain,
    ValFraction,
    Weights,
    Workers,
)
from vitune.errors import ConfigError


def train(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="Folder of images, VTAB-1k lists, a CSV or Parquet table.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="What to train: 'ssf', 'lora(rank=4,roles=attn.q+attn.v)', several joined by a comma.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    weights: Weights = None,
    init_modules: Annotated[
        Path | None,
        typer.Option(
            "--init-modules",
            metavar="FILE",
            help="Start the method from what 'vitune pretrain-modules' wrote; the head starts anew.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="Published settings, see 'vitune list recipes'; other options override them.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    assignments: AnySetting = None,
    train_split: Annotated[
        str | None,
        typer.Option(
            "--train-split",
            metavar="SPLIT",
            help="For VTAB-1k lists: train800, or train800val200 (no selection, last epoch).",
            rich_help_panel=DATA,
        ),
    ] = None,
    val_fraction: ValFraction = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots",
            metavar="K",
            help="Train on K images of each class, the same for every method; --set shot_seed=N draws others.",
            rich_help_panel=DATA,
        ),
    ] = None,
    test_domain: TestDomain = None,
    on_bad_image: OnBadImage = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    final_test: Annotated[
        bool,
        typer.Option("--final-test", help="Open the test split once, at the very end.", rich_help_panel=DATA),
    ] = False,
    store_bits: Annotated[
        int | None,
        typer.Option(
            "--store-bits",
            metavar="1|2|4|8",
            help="Round the adapter's matrices to so many bits at the end.",
            rich_help_panel=RUN,
        ),
    ] = None,
    precision: Precision = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="auto|stock|fast|lean|leaner|leanest",
            help="What is kept for the backward pass; less takes more time, results are the same.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    fit_memory: Annotated[
        str | None,
        typer.Option(
            "--fit-memory",
            metavar="SIZE",
            help="Choose memory level and micro-batches so that a step fits, for instance 4GB.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    device: Device = None,
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Run directory; a new one below runs/ if not given.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="DIR",
            help="Go on with this run; nothing else is given then.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Repeat the run that wrote this config.json.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Fine-tune a backbone on a data set, or go on with a run that was stopped.

    Leaves a run directory: adapter, settings, split, log, result and report.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
        "train_split": train_split,
        "val_fraction": val_fraction,
        "shots": shots,
        "test_domain": test_domain,
        "on_bad_image": on_bad_image,
        "image_column": image_column,
        "label_column": label_column,
        "final_test": final_test or None,
        "store_bits": store_bits,
        "precision": precision,
        "memory": memory,
        "fit_memory": fit_memory,
        "device": device,
        "workers": workers,
        "weights": weights,
        "init_modules": init_modules,
        "model": model,
        "method": method,
        "recipe": recipe,
        "set": assignments or None,
    }
    given = {name: value for name, value in given.items() if value is not None}

    from vitune.cli import training_run
    from vitune.cli.train_request import compose, repeat

    if resume is not None:
        _refuse(
            "--resume goes on with a run as it was started",
            {**given, "DATA": data, "out": out, "config": config},
        )
        training_run.resume_and_show(resume)
        return
    if config is not None:
        _refuse("--config repeats a run as it was", given)
        request = repeat(config, data, out)
    else:
        request = compose(data, given, out)
    training_run.train_and_show(request, ["vitune", *context.obj], recipe)


def _refuse(reason: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            option = name if name.isupper() else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{reason}, so {option} cannot be given with it; leave it out.")

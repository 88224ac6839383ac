"""`vitune pretrain-modules`: train a method's modules on a large set, as the start of other runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from vitune.cli.options import (
    MODEL,
    RUN,
    AnySetting,
    BatchSize,
    Device,
    Epochs,
    LearningRate,
    ModelName,
    Precision,
    Seed,
    Weights,
    Workers,
    given,
)
from vitune.errors import ConfigError


def pretrain_modules(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Labelled images to pre-train on.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="One of vpt, lora, adapter, adaptformer, ssf, with settings.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model: ModelName = None,
    weights: Weights = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    assignments: AnySetting = None,
    precision: Precision = None,
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
            help="Go on with this run, or write the modules of a finished one; nothing else is given then.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Train the modules of a method with the backbone frozen, for 'vitune train --init-modules'.

    Leaves a run directory with the file modules.safetensors: the modules without a head.
    """
    options = given(
        method=method,
        model=model,
        weights=weights,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        device=device,
        workers=workers,
        set=assignments or None,
    )
    if resume is not None:
        for name, value in {"DATA": data, "out": out, **options}.items():
            if value is not None:
                option = name if name.isupper() else f"--{name.replace('_', '-')}"
                raise ConfigError(
                    f"--resume goes on with a run as it was started, so {option} cannot be given with it; "
                    f"leave it out."
                )
        _run(resume, None)
        return
    from dataclasses import replace

    from vitune.cli.train_request import compose

    request = compose(data, options, out)
    _run(None, replace(request, command=shlex.join(["vitune", *context.obj])))


def _run(directory: Path | None, request: Any) -> None:
    """Start a request, or go on with a directory, and print what came of it."""
    from vitune.cli.console import console
    from vitune.cli.stopped import Stopped
    from vitune.cli.training_view import TrainingView
    from vitune.report.units import percent
    from vitune.tasks.classification import pretrain_modules, resume_modules

    out = console()
    view = TrainingView(out)
    try:
        with view:
            if directory is not None:
                result = resume_modules(directory, on_event=view)
            else:
                result = pretrain_modules(request, on_event=view)
    except KeyboardInterrupt:
        if view.directory is None:
            raise Stopped("stopped before anything was written.") from None
        again = f"vitune pretrain-modules --resume {shlex.quote(view.directory)}"
        raise Stopped(f"stopped at once; go on from the last checkpoint with: {again}") from None
    if result.path is None:
        raise Stopped(f"stopped, and saved; go on with: {result.next_commands[0]}")
    found = "not measured" if result.accuracy is None else percent(result.accuracy)
    out.print(f"\nwrote {result.path}; accuracy on these data {found}", soft_wrap=True)
    out.print("next:")
    for command in result.next_commands:
        out.print(f"  {command}", soft_wrap=True)

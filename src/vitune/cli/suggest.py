"""`vitune suggest`: which method suits the data, the machine and the limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitune.cli.options import (
    DATA,
    MACHINE,
    MODEL,
    TRAINING,
    Device,
    EachMethod,
    ImageColumn,
    LabelColumn,
    chosen_methods,
    given,
)

_LIMITS = "What must fit"


def suggest(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Folder of images, VTAB-1k lists, a CSV or Parquet table."),
    ],
    fit_memory: Annotated[
        str | None,
        typer.Option(
            "--fit-memory",
            metavar="SIZE",
            help="Of a training step, for instance 4GB; memory levels and parts of a batch are chosen for it.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    fit_time: Annotated[
        str | None,
        typer.Option(
            "--fit-time",
            metavar="TIME",
            help="Of the whole training, for instance 20min or 2h.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    fit_params: Annotated[
        str | None,
        typer.Option(
            "--fit-params",
            metavar="N",
            help="Trained parameters, the head's included, for instance 100k.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    fit_disk: Annotated[
        str | None,
        typer.Option(
            "--fit-disk",
            metavar="SIZE",
            help="Of the adapter's file, for instance 1MB.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    no_inference_overhead: Annotated[
        bool,
        typer.Option(
            "--no-inference-overhead",
            help="Only methods that merge into a plain model.",
            rich_help_panel=_LIMITS,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Backbone; the built-in one if not given.", rich_help_panel=MODEL
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Methods to choose from: a comma separates them, + joins those that act together. All that stand "
            "alone if not given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    method: EachMethod = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Passes over the data.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", help="Images per step.", rich_help_panel=TRAINING),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", metavar="K", help="Train on K images of each class.", rich_help_panel=DATA),
    ] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="auto|fp32|bf16|fp16", help="Of computation.", rich_help_panel=MACHINE
        ),
    ] = None,
    device: Device = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            metavar="X",
            help="About how long to time steps; 40 if not given. More time, more methods, longer steps.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Say which method suits your data, machine and limits, and the command to train it.

    Costs are counted on your model and calibrated by short steps of it; the order follows trials that come with vitune.
    """
    import json

    from vitune.cli.console import console
    from vitune.cli.suggest_view import print_suggestion
    from vitune.tasks.request import DataSettings, ModelSettings
    from vitune.tasks.suggest import Limits, SuggestSettings
    from vitune.tasks.suggest import suggest as run

    columns: dict[str, Any] = given(shots=shots, image_column=image_column, label_column=label_column)
    settings = SuggestSettings(
        data=DataSettings(path=data, **columns),
        model=ModelSettings(name=model),
        limits=Limits(
            memory=fit_memory,
            time=fit_time,
            parameters=fit_params,
            disk=fit_disk,
            no_inference_overhead=no_inference_overhead,
        ),
        **given(
            methods=chosen_methods(methods, method) or None,
            epochs=epochs,
            batch_size=batch_size,
            precision=precision,
            device=device,
            measure_seconds=seconds,
        ),
    )
    with console(news=True).status("") as status:
        answer = run(settings, lambda text: status.update(text))
    if as_json:
        typer.echo(json.dumps(answer.as_dict(), indent=1))
    else:
        print_suggestion(answer)

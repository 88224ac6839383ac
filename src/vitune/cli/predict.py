"""`vitune predict`: what a run says is on images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitune.cli.options import Device, Weights, given

if TYPE_CHECKING:
    from vitune.tasks.classification import Prediction


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, and folders of images.")],
    top_k: Annotated[int, typer.Option("--top-k", metavar="N", help="Classes to name for each image.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    weights: Weights = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at a time.")] = 32,
    device: Device = None,
) -> None:
    """Say what is on images: the most probable classes of each."""
    from vitune.tasks import classification

    found = classification.predict(
        run, paths, top_k=top_k, weights=weights, batch_size=batch_size, **given(device=device)
    )
    if as_json:
        _print_json(found)
    else:
        _print_table(found)


def _print_json(predictions: list[Prediction]) -> None:
    import json

    values = [
        {
            "path": str(prediction.path),
            "classes": [
                {"class": guess.class_name, "probability": guess.probability} for guess in prediction.guesses
            ],
        }
        for prediction in predictions
    ]
    typer.echo(json.dumps(values, indent=1))


def _print_table(predictions: list[Prediction]) -> None:
    from vitune.cli.console import console, table

    made = table("image", "class", "probability", right=("probability",))
    for prediction in predictions:
        for rank, guess in enumerate(prediction.guesses):
            path = "" if rank else str(prediction.path)
            made.add_row(path, guess.class_name, f"{100 * guess.probability:.1f} %")
    console().print(made)

"""Options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DATA, MODEL, TRAINING, MACHINE, RUN = "Data", "Model", "Training", "Machine", "Run"

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights of the backbone (.safetensors, .npz, .pth) in place of a download.",
        rich_help_panel=MODEL,
    ),
]
OnBadImage = Annotated[
    str | None,
    typer.Option(
        "--on-bad-image",
        metavar="error|skip",
        help="Whether a broken image is an error, or is left out and listed.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option("--image-column", metavar="NAME", help="Column of a table's images.", rich_help_panel=DATA),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label-column", metavar="NAME", help="Column of a table's labels.", rich_help_panel=DATA),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        help="Where to compute.",
        rich_help_panel=MACHINE,
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Processes that read images.", rich_help_panel=MACHINE),
]


def given(**options: Any) -> dict[str, Any]:
    """Those options that the user gave; the others keep the default of the function they go to.

    Args:
        **options: Name to value, None where not given.
    """
    return {name: value for name, value in options.items() if value is not None}

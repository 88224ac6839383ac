"""Options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DATA, MODEL, TRAINING, MACHINE, RUN = "Data", "Model", "Training", "Machine", "Run"
PROTOCOL = "Protocol"

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
TestDomain = Annotated[
    str | None,
    typer.Option(
        "--test-domain",
        metavar="NAME",
        help="Test on this domain of DOMAIN/CLASS folders; the others are trained on.",
        rich_help_panel=DATA,
    ),
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
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Backbone; the built-in one if not given.", rich_help_panel=MODEL
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        metavar="A,B,...",
        help="Methods beside each other: a comma separates them, + joins those that act together, for instance "
        "'linear,lora(rank=4),full+alast'.",
        rich_help_panel=MODEL,
    ),
]
EachMethod = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="One more of them, spelled as for 'vitune train'; may be repeated.",
        rich_help_panel=MODEL,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", help="Passes over the data.", rich_help_panel=TRAINING),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="X",
        help="Learning rate; the method's own if not given.",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Images per step.", rich_help_panel=TRAINING),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Seed of everything random.", rich_help_panel=TRAINING),
]
AnySetting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, see 'vitune list settings'; may be repeated.",
        rich_help_panel=TRAINING,
    ),
]
SharedSetting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting that all methods share, see 'vitune list settings'; may be repeated.",
        rich_help_panel=TRAINING,
    ),
]
ValFraction = Annotated[
    float | None,
    typer.Option(
        "--val-fraction",
        metavar="X",
        help="Share held out where there is no val split.",
        rich_help_panel=DATA,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="auto|fp32|bf16|fp16", help="Of computation.", rich_help_panel=MACHINE
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="METHOD",
        help="The method that the others are compared with; linear if it is there, else the first.",
        rich_help_panel=PROTOCOL,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Run the trials here, or on the Ray cluster that RAY_ADDRESS names.",
        rich_help_panel=MACHINE,
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="Run trials again that have failed.", rich_help_panel=PROTOCOL),
]


def given(**options: Any) -> dict[str, Any]:
    """Those options that the user gave; the others keep the default of the function they go to.

    Args:
        **options: Name to value, None where not given.
    """
    return {name: value for name, value in options.items() if value is not None}


def chosen_methods(methods: list[str] | None, each: list[str] | None) -> tuple[str, ...]:
    """All methods that `--methods` lists, then those of `--method`, each as `vitune train` spells it.

    Args:
        methods: Lists of alternatives, as given to `--methods`.
        each: Single ones, as given to `--method`.

    Raises:
        ConfigError: If a list cannot be read.
    """
    from vitune.methods.parse import split_alternatives

    listed = (method for text in methods or () for method in split_alternatives(text))
    return (*listed, *(each or ()))

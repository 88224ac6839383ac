"""`vitune export`: a run as ONNX or as a program of torch.export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitune.cli.options import Weights


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .onnx or .pt2 file to write.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="onnx|torch-export", help="Format of the file.")
    ] = "onnx",
    weights: Weights = None,
) -> None:
    """Write the model, merged as far as it can be, as a file that other runtimes execute."""
    from vitune.cli.console import console
    from vitune.report.units import size
    from vitune.tasks import classification

    result = classification.export(run, out, format=format_, weights=weights)  # pyright: ignore[reportArgumentType]
    lines = console()
    lines.print(
        f"wrote {result.path} ({size(result.bytes)}); its logits differ from the tuned model's by at most "
        f"{result.difference:.1e}",
        soft_wrap=True,
    )
    if result.unmerged:
        lines.print(
            f"{len(result.unmerged)} edits stay in the graph, since no layer can take them up "
            f"(first: {result.unmerged[0]})",
            soft_wrap=True,
        )
    if result.skipping == "kept":
        lines.print("tokens are skipped in the file as in the tuned model", soft_wrap=True)
    elif result.skipping is not None:
        lines.print(
            "the file computes every token and masks, so that it is not faster than a plain model; "
            "--format torch-export keeps the skipping",
            soft_wrap=True,
        )
    lines.print(f"class names and preprocessing: {result.description}", soft_wrap=True)

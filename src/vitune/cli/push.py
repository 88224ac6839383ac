"""`vitune push`: publish an adapter on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run or adapter directory.")],
    repo: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; made if need be.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Only the owner may see it.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="NAME", help="Licence of the adapter, such as apache-2.0."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Keep the folder that is uploaded here.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder to look at it, and upload nothing.")
    ] = False,
) -> None:
    """Upload the adapter with a card: metrics with intervals, data, settings, costs, how to load it."""
    from vitune.cli.console import console
    from vitune.report.units import size
    from vitune.tasks.push import push as publish

    result = publish(run, repo, private=private, licence=licence, out=out, dry_run=dry_run)
    lines = console()
    if result.folder is not None:
        listed = ", ".join(f"{name} ({size(amount)})" for name, amount in result.files.items())
        lines.print(f"wrote {result.folder}: {listed}", soft_wrap=True)
    if result.url is None:
        lines.print("nothing was uploaded; without --dry-run it is", soft_wrap=True)
        return
    lines.print(f"pushed {result.url}", soft_wrap=True)
    lines.print(f"load it with: vitune.load('hf-hub:{result.repo}')", soft_wrap=True)

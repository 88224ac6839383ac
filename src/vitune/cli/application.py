"""The typer application: every verb by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from vitune.cli.bench import bench
from vitune.cli.compare import compare
from vitune.cli.convert import convert
from vitune.cli.demo import demo
from vitune.cli.evaluate import evaluate
from vitune.cli.export import export
from vitune.cli.listing import list_
from vitune.cli.merge import merge
from vitune.cli.predict import predict
from vitune.cli.pretrain import pretrain
from vitune.cli.pretrain_modules import pretrain_modules
from vitune.cli.profile import profile
from vitune.cli.push import push
from vitune.cli.show import show
from vitune.cli.suggest import suggest
from vitune.cli.train import train

app = typer.Typer(
    help="Fine-tune vision transformers with a fraction of the parameters, memory, compute and storage.",
    epilog="Begin with 'vitune demo'. Each verb explains itself: 'vitune train --help'.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VERBS = {
    "demo": demo,
    "train": train,
    "compare": compare,
    "bench": bench,
    "evaluate": evaluate,
    "predict": predict,
    "merge": merge,
    "export": export,
    "push": push,
    "convert": convert,
    "pretrain": pretrain,
    "pretrain-modules": pretrain_modules,
    "suggest": suggest,
    "profile": profile,
    "list": list_,
    "show": show,
}
for _name, _verb in _VERBS.items():
    app.command(_name)(_verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from vitune import __version__

        typer.echo(f"vitune {__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Options of every verb; `--debug` is taken off by `main`, which must know it before typer runs."""

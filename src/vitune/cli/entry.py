"""The entry point: runs a verb and turns whatever stops it into one sentence and an exit code."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import typer

from vitune.cli.application import app
from vitune.cli.stopped import Stopped
from vitune.errors import VituneError

OK, BUG, MISTAKE, STOPPED = 0, 1, 2, 130

# typer brings its own copy of click or uses the installed one, by version; usage errors have one base in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows `vitune`; those of the process if not given.

    Returns:
        The exit code: 0, or 2 after a mistake of the user, 130 after Ctrl-C, 1 after a mistake of ours.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _print_any_text()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with nullcontext() if debug else _quiet_libraries():
            return _run(words)
    except Exception as error:
        if debug:
            traceback.print_exc()
        text, code = explain(error)
    print(f"vitune: {text}", file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    """Run a verb; its errors come through, but for Ctrl-C, which is none."""
    try:
        code = typer.main.get_command(app).main(words, prog_name="vitune", standalone_mode=False, obj=words)
    except Stopped as stopped:
        code, text = STOPPED, str(stopped)
    except (typer.Abort, KeyboardInterrupt):
        code, text = STOPPED, "stopped."
    else:
        # Newer typer makes an exit code of Ctrl-C, older typer an Abort.
        code, text = (code, "stopped.") if isinstance(code, int) else (OK, "")
    if code == STOPPED:
        print(f"vitune: {text}", file=sys.stderr)
    return code


def explain(error: Exception) -> tuple[str, int]:
    """One sentence for the user, and the exit code.

    Args:
        error: What a verb raised.
    """
    if isinstance(error, _UsageError):
        return _usage(error), MISTAKE
    if isinstance(error, VituneError):
        return _one_line(str(error)), MISTAKE
    if isinstance(error, OSError) and error.strerror:
        place = f" '{error.filename}'" if error.filename else ""
        return f"the system refuses{place}: {error.strerror}.", MISTAKE
    kind = type(error).__name__
    return (
        f"unexpected {kind}: {_one_line(str(error))[:200]} (a mistake of vitune, not yours; "
        f"add --debug to see where, and please report it).",
        BUG,
    )


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "vitune"
    format_message = getattr(error, "format_message", error.__str__)
    message = _one_line(format_message()).rstrip(".")
    message = message[:1].lower() + message[1:]
    return (
        f"{message} See '{command} --help'."
        if message.endswith("?")
        else f"{message}; see '{command} --help'."
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_any_text() -> None:
    """Escape what cannot be printed: a file name may be no text, and a terminal may know few characters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries' own warnings are for developers: the user gets ours, or all of them with --debug."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    last_resort, logging.lastResort = logging.lastResort, None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.lastResort = last_resort

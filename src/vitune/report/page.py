"""Write the report of one or several runs: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitune import __version__
from vitune.durable import replace_file
from vitune.errors import ConfigError, RunError
from vitune.report import units
from vitune.report.comparison import comparison, run_labels
from vitune.report.reading import read_run
from vitune.report.record import RunRecord
from vitune.report.run_section import run_section

MISTAKES_OF_ONE, MISTAKES_OF_EACH = 24, 12


def write_report(runs: Sequence[Path], destination: Path, *, title: str | None = None) -> Path:
    """Write the report of one or several runs.

    Args:
        runs: Run directories, as `vitune train` writes them.
        destination: The HTML file to write; an existing one is replaced in one step.
        title: Heading of the page; by default the name of the run, or how many are compared.

    Returns:
        The file written.

    Raises:
        ConfigError: If no run is given.
        RunError: If a run cannot be read, or the file cannot be written.
    """
    page = render([read_run(Path(run)) for run in runs], title=title)
    return _write(Path(destination), page)


def render(runs: Sequence[RunRecord], *, title: str | None = None) -> str:
    """The report as text.

    Args:
        runs: The runs; more than one are compared.
        title: Heading of the page; by default the name of the run, or how many are compared.

    Raises:
        ConfigError: If no run is given.
    """
    if not runs:
        raise ConfigError("report: no run was given; name one run directory or several.")
    single = len(runs) == 1
    sections = [
        run_section(
            run,
            key="run" if single else f"run-{index + 1}",
            label=label,
            tone=0 if single else index,
            most_mistakes=MISTAKES_OF_ONE if single else MISTAKES_OF_EACH,
        )
        for index, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True))
    ]
    environment = _environment()
    script = _source(environment, "page.js")
    return environment.get_template("page.html.j2").render(
        title=title or (runs[0].name if single else f"{len(runs)} runs compared"),
        version=__version__,
        sections=sections,
        comparison=None if single else comparison(sections),
        style=Markup(_source(environment, "style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vitune.report"),
        # Names of classes, files and runs are the user's: every template escapes, whatever its name.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        breakable=_breakable,
        percent=units.percent,
        small_percent=units.small_percent,
        count=units.count,
        decimal=units.decimal,
    )
    return environment


def _breakable(text: str) -> Markup:
    """A path that may be broken after its separators rather than anywhere."""
    return Markup("").join(
        part + Markup("<wbr>") * (part in "/\\_.-") for part in re.split(r"([/\\_.-])", text)
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _write(destination: Path, page: str) -> Path:
    if destination.is_dir():
        raise RunError(
            f"{destination} is a folder; name the file to write, such as {destination / 'report.html'}"
        )
    # A file name may hold bytes that are no text; it is shown with \udc80 rather than refused.
    data = page.encode("utf-8", errors="backslashreplace")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        replace_file(destination, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        raise RunError(
            f"the report {destination} cannot be written: {error.strerror}; choose another file."
        ) from None
    return destination

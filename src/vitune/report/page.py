"""Write the report of one or several runs: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitune.errors import ConfigError
from vitune.report.comparison import comparison, run_labels
from vitune.report.reading import read_run
from vitune.report.record import RunRecord
from vitune.report.run_section import run_section
from vitune.report.shell import render_page, write_page

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
    return write_page(Path(destination), page)


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
    return render_page(
        "page.html.j2",
        title=title or (runs[0].name if single else f"{len(runs)} runs compared"),
        sections=sections,
        comparison=None if single else comparison(sections),
    )

"""What all pages share: one HTML file each, with style and script inside, that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitune import __version__
from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.report import units


def render_page(template: str, *, title: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: Name of a template that extends `shell.html.j2`.
        title: Heading of the page.
        **values: What the template shows.
    """
    environment = _environment()
    script = _source(environment, "page.js")
    return environment.get_template(template).render(
        title=title,
        version=__version__,
        style=Markup(_source(environment, "style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        **values,
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


def write_page(destination: Path, page: str) -> Path:
    """Write a page; an existing file is replaced in one step.

    Args:
        destination: The HTML file.
        page: The text.

    Returns:
        The file written.

    Raises:
        RunError: If it cannot be written.
    """
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

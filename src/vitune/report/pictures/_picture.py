"""What a picture is: a drawing with words for those who see it and those who do not."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """The numbers of a picture.

    Attributes:
        head: Words above the columns; the first one holds the names of the rows.
        rows: As many cells each.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """One picture on the page.

    Attributes:
        title: What it shows, in a few words.
        lead: How to read it, in a sentence or two.
        drawing: The SVG, escaped.
        table: The numbers, shown on demand.
        wide: Whether it has a size of its own and is scrolled where the page is narrower.
        legend: Words and colour numbers.
    """

    title: str
    lead: str
    drawing: Markup
    table: Table
    wide: bool = False
    legend: tuple[tuple[str, int], ...] = ()


class Drawing:
    """Collects the elements of an SVG, whatever is written into them being escaped.

    Args:
        width: In user units; also in pixels where the picture is wide.
        height: The same.
        label: What a screen reader says of it.
        wide: Whether the size is in pixels, else the drawing fills its column.
    """

    def __init__(self, width: float, height: float, label: str, *, wide: bool = False) -> None:
        size = {"width": _number(width), "height": _number(height)} if wide else {}
        self.root = Element(
            "svg",
            {
                "viewBox": f"0 0 {_number(width)} {_number(height)}",
                "role": "img",
                "aria-label": label,
                **size,
            },
        )

    def add(
        self, tag: str, text: str | None = None, parent: Element | None = None, **attributes: Any
    ) -> Element:
        """Add an element.

        Args:
            tag: Its name.
            text: Its text.
            parent: Where, if not at the top.
            **attributes: `class_` is the class, `_` in other names is `-`; None leaves one out.
        """
        named = {
            "class" if name == "class_" else name.replace("_", "-"): _number(value)
            for name, value in attributes.items()
            if value is not None
        }
        element = SubElement(self.root if parent is None else parent, tag, named)
        element.text = text
        return element

    def text(self, x: float, y: float, text: str, *, anchor: str = "middle", class_: str = "tick") -> None:
        """Add words."""
        self.add("text", text, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)

    def tip(self, text: str) -> Element:
        """Add a group that tells a text where it is pointed at; its shape is to be added to it."""
        group = self.add("g", class_="tip")
        self.add("title", text, parent=group)
        return group

    def markup(self) -> Markup:
        """The SVG."""
        return Markup(ElementTree.tostring(self.root, encoding="unicode", short_empty_elements=True))


def _number(value: Any) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else str(value)

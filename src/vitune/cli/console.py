"""Where text goes: the console of the results, and that of the news while one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(*, news: bool = False) -> Console:
    """A console that prints text as it is: brackets in file names are no markup, numbers have no colours.

    Args:
        news: Whether for stderr, so that results on stdout can be piped.
    """
    from rich.console import Console

    return Console(stderr=news, markup=False, emoji=False, highlight=False, soft_wrap=False)


def table(
    *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = (), title: str | None = None
) -> Table:
    """A plain table without vertical lines, narrow enough to copy.

    Args:
        *columns: Headings.
        right: Those whose cells are numbers, put to the right and never broken.
        whole: Others whose cells are never broken, since they are short.
        title: Line above it.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right or column in whole,
            overflow="fold",
        )
    return made


def print_indented(out: Console, text: str) -> None:
    """Print a paragraph two columns in, also where it goes on on another line.

    Args:
        out: Where to print.
        text: The paragraph.
    """
    from rich.padding import Padding
    from rich.text import Text

    out.print(Padding(Text(text), (0, 0, 0, 2), expand=False))


def accuracy_text(accuracy: float, low: float | None, high: float | None) -> str:
    """An accuracy with its 95 % interval, in per cent.

    Args:
        accuracy: Share from 0 to 1.
        low: Lower end; None where unknown.
        high: Upper end.
    """
    if low is None or high is None:
        return f"{100 * accuracy:.1f} %"
    return f"{100 * accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

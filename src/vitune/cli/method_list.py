"""`vitune list methods`: what there is, what it costs, what merges, and what cannot be combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vitune.cli.console import console, print_indented, table

if TYPE_CHECKING:
    from rich.console import Console

_ROOM_FOR_TITLES = 100
_LEVELS = ("stock", "fast")


def method_table(keep: Callable[[str], bool]) -> tuple[Any, str]:
    """The methods as a table, and what its columns mean.

    Args:
        keep: Which methods, by name.
    """
    from vitune.methods import all_methods, known_costs

    known = known_costs()
    columns = ("method", "trains", *_LEVELS, "lr", "merges", "paper", "title")
    if console().width < _ROOM_FOR_TITLES:
        columns = columns[:-1]
    made = table(*columns, right=("trains", *_LEVELS, "lr"), whole=("method", "merges", "paper"))
    for name, method in all_methods().items():
        if keep(name):
            costs = known.methods.get(name)
            trains = "-" if costs is None else f"{costs.parameters:,}"
            numbers = (
                "-" if costs is None else f"{costs.saved_activation_mib[level]:.0f}" for level in _LEVELS
            )
            merges = "yes" if method.merges else "no"
            cells = (name, trains, *numbers, f"{method.default_lr:g}", merges, method.paper, method.title)
            made.add_row(*cells[: len(columns)])
    return made, (
        f"Counted at {known.model}, default settings: 'trains' is parameters outside the head, 'stock' and 'fast' "
        f"MiB kept for the backward pass of a step on {known.batch_size} images at these levels of --memory. alast, "
        "suffix and velora train what others do, spt what data decides (here about 400,000). "
        "'vitune show METHOD' has the settings, 'vitune profile' the costs on your backbone. "
        "'peft(...)' takes any config of the package peft: 'vitune show peft'."
    )


def print_refused(out: Console, keep: Callable[[str], bool]) -> None:
    """Print which pairs are refused, and why.

    Args:
        out: Where to print.
        keep: Only pairs of which one method at least is kept, by name.
    """
    from vitune.methods import all_methods, refusals

    methods = all_methods()
    found = {
        f"{refusal.name} with {_names(refusal.others, methods, refusal.name, keep)}": refusal.reason
        for refusal in refusals(methods)
        if keep(refusal.name) or any(map(keep, refusal.others))
    }
    if not found:
        out.print("Combine methods with a comma; these go with any other.")
        return
    out.print("Combine methods with a comma, in any number. These do not go together:")
    for pair, reason in found.items():
        print_indented(out, f"{pair}: {reason}")


def _names(
    others: tuple[str, ...], methods: Mapping[str, Any], name: str, keep: Callable[[str], bool]
) -> str:
    shown = others if keep(name) else tuple(filter(keep, others))
    missing = [other for other in methods if other not in others and other != name]
    if len(shown) == len(others) and len(shown) > len(missing):
        return f"any but {', '.join(missing)}" if missing else "any other"
    return ", ".join(shown)

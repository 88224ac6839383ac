"""How the command line shows what a model that skips tokens saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitune.tasks.skipping import SkippingMeasured

_PER_LINE = 6


def print_skipping(found: SkippingMeasured) -> None:
    """Print what was kept, what runs and how fast, beside the plain backbone.

    Args:
        found: What was measured.
    """
    from vitune.cli.console import console, table
    from vitune.report.pictures.activation import short_role

    out = console()
    out.print(
        f"tokens skipped: the gates keep {100 * found.kept_share:.1f} % of the patch tokens "
        f"({found.images} images); by gate:",
        soft_wrap=True,
    )
    gates = [f"{short_role(role)} {100 * rate:.0f} %" for role, rate in found.rates.items()]
    for start in range(0, len(gates), _PER_LINE):
        out.print("  " + "   ".join(gates[start : start + _PER_LINE]))
    made = table(
        "inference", "MFLOPs", "of plain", "images/s", "times plain",
        right=("MFLOPs", "of plain", "images/s", "times plain"),
    )  # fmt: skip
    for words, flops, speed in (
        ("plain backbone", found.plain_flops, found.plain_images_per_second),
        ("all computed, masked", found.masked_flops, found.masked_images_per_second),
        ("skipping, as it runs", found.executed_flops, found.images_per_second),
    ):
        made.add_row(
            words,
            f"{flops / 1e6:,.1f}",
            f"{flops / found.plain_flops:.2f}",
            f"{speed:.4g}",
            f"{speed / found.plain_images_per_second:.2f}",
        )
    out.print(made)
    out.print(
        f"MFLOPs per image, two per multiply-accumulate; images/s in batches of {found.timed_images}, medians.",
        soft_wrap=True,
    )

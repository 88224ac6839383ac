"""How many patch tokens every gate keeps (DyT): in training by epochs, and as measured at inference.

Drawn from `dyt_rates` in the step lines of the log (one share per gate, in the order of the model) and from `skipping`
in result.json (see `vitune.tasks.skipping`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from vitune.report import units
from vitune.report.fields import Fields
from vitune.report.pictures._heat import heat_strip
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.record import RunRecord

WIDTH, LEFT, RIGHT, ROW, TOP = 360, 62, 52, 17, 6


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """A heat strip over epochs, and bars of what was measured; none where the run has no gates.

    Args:
        run: The run.
        key: Start of ids; not needed here.

    Raises:
        RunError: If a value is of the wrong type.
    """
    measured = Fields(run.skipping, "result.json", "skipping.") if run.skipping else None
    rates = {} if measured is None else _rates(measured)
    by_epoch = _by_epoch(run)
    found = []
    if by_epoch:
        epochs = sorted(by_epoch)
        values = [by_epoch[epoch] for epoch in epochs]
        gates = min(len(one) for one in values)
        values = [one[:gates] for one in values]
        names = (
            [short_role(role) for role in rates] if len(rates) == gates else [str(i) for i in range(gates)]
        )
        table = Table(
            ("Gate", f"Epoch {epochs[0]}", f"Epoch {epochs[-1]}"),
            tuple(
                (name, units.percent(values[0][i]), units.percent(values[-1][i]))
                for i, name in enumerate(names)
            ),
        )
        drawing = heat_strip(
            "Patch tokens kept in training", names, epochs, values,
            limits=_limits(values), show=lambda value: f"{100 * value:.0f} %", x_label="epoch", tone=0,
        )  # fmt: skip
        lead = (
            "The share of patch tokens that each gate kept, a mean over the logged steps of an epoch. In training the "
            "gates carry noise."
        )
        found.append(Picture("Patch tokens kept in training", lead, drawing, table))
    if measured is not None and rates:
        found.append(_measured(measured, rates))
    return tuple(found)


def short_role(role: str) -> str:
    """`blocks.3.mlp.around` as `3 mlp`, `blocks.3.around` and `blocks.3` as `3`."""
    return role.removeprefix("blocks.").removesuffix("around").strip(".").replace(".", " ")


def _limits(values: list[list[float | None]]) -> tuple[float, float]:
    """Whole tenths around the values: training holds the shares close to one another."""
    known = [value for column in values for value in column if value is not None]
    return math.floor(10 * min(known)) / 10, math.ceil(10 * max(known)) / 10


def _by_epoch(run: RunRecord) -> dict[int, list[float | None]]:
    sums: dict[int, list[list[float]]] = {}
    for step in run.log.steps if run.log else ():
        rates, epoch = step.values.get("dyt_rates"), step.values.get("epoch")
        if (
            isinstance(rates, list)
            and isinstance(epoch, int)
            and all(isinstance(r, int | float) for r in rates)
        ):
            sums.setdefault(epoch, []).append([float(rate) for rate in rates])
    return {
        epoch: [sum(column) / len(column) for column in zip(*lines, strict=False)]
        for epoch, lines in sums.items()
    }


def _rates(measured: Fields) -> dict[str, float]:
    fields = measured.mapping("rates")
    return {role: fields.share(role) or 0.0 for role in fields.values}


def _measured(measured: Fields, rates: dict[str, float]) -> Picture:
    names = [short_role(role) for role in rates]
    images, timed = measured.integer("images"), measured.integer("timed_images")
    share = measured.share("kept_share")
    rows = [
        (words, measured.number(f"{kind}_flops"), measured.number(speed))
        for words, kind, speed in (
            ("Plain backbone", "plain", "plain_images_per_second"),
            ("All computed, then masked", "masked", "masked_images_per_second"),
            ("Skipping, as it runs", "executed", "images_per_second"),
        )
    ]
    plain = rows[0]
    table = Table(
        ("Model or gate", "FLOPs per image", "Images per second", "Patch tokens kept"),
        (
            *(
                (words, _beside(flops, plain[1], units.flops), _beside(speed, plain[2], _speed), "")
                for words, flops, speed in rows
            ),
            *(
                (f"gate {name}", "", "", units.percent(rate))
                for name, rate in zip(names, rates.values(), strict=True)
            ),
        ),
    )
    height = TOP + ROW * len(names) + 4
    told = ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in zip(names, rates.values(), strict=True))
    drawing = Drawing(WIDTH, height, f"Patch tokens kept at inference by gate: {told}.")
    full = WIDTH - LEFT - RIGHT
    for i, (name, rate) in enumerate(zip(names, rates.values(), strict=True)):
        y = TOP + i * ROW
        drawing.text(LEFT - 6, y + 11.5, name, anchor="end")
        drawing.add("rect", x=LEFT, y=y + 2, width=full, height=ROW - 5, class_="frozen", rx=2)
        drawing.add("rect", x=LEFT, y=y + 2, width=full * rate, height=ROW - 5, class_="heat tone-0", rx=2)
        drawing.text(LEFT + full + 6, y + 11.5, f"{100 * rate:.0f} %", anchor="start")
    executed, masked = rows[2], rows[1]
    lead = (
        f"Over {units.count(images)} images the gates keep {units.percent(share)} of the patch tokens. Inference runs "
        f"{_beside(executed[1], plain[1], units.flops)} per image; the plain backbone {units.flops(plain[1])}, the "
        f"tuned model with everything computed and masked {units.flops(masked[1])}. In batches of "
        f"{units.count(timed)} it makes {_beside(executed[2], plain[2], _speed)} images per second; plain "
        f"{_speed(plain[2])}, masked {_speed(masked[2])}."
    )
    return Picture("What inference skips", lead, drawing.markup(), table)


def _speed(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{value:.3g}"


def _beside(value: float | None, plain: float | None, show: Callable[[float | None], str]) -> str:
    words = show(value)
    return words if not value or not plain or value == plain else f"{words} ({value / plain:.2f} of plain)"

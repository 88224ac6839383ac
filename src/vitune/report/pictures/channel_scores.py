"""The channels that SCT chose, and by what: for every place the scores of all channels, the chosen ones coloured.

The values: `{"sites": [{"role": "blocks.0.middle", "scores": [per channel], "chosen": [channel numbers]}, ...]}`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitune.report import units
from vitune.report.fields import Fields
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.record import RunRecord

WIDTH, LEFT, ROW, GAP, TOP = 760, 62, 30, 8, 4
MOST_BARS = 384


@dataclass(frozen=True)
class _Site:
    role: str
    scores: tuple[float, ...]
    chosen: frozenset[int]

    @property
    def short(self) -> str:
        return self.role.removeprefix("blocks.").replace(".middle", "").replace(".", " ")


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """A picture for each method that scored channels.

    Args:
        run: The run.
        key: Start of ids; not needed here.

    Raises:
        RunError: If the values are not as described.
    """
    found = () if run.pictures is None else run.pictures.values_of("channel_scores")
    return tuple(_draw(values) for values in found if values.objects("sites"))


def _draw(values: Fields) -> Picture:
    sites = [_site(site) for site in values.objects("sites")]
    height = TOP + len(sites) * (ROW + GAP) + 18
    bars = max(len(site.scores) for site in sites)
    drawing = Drawing(
        WIDTH,
        height,
        f"Scores of up to {bars} channels at {len(sites)} places, the chosen ones coloured; numbers are in the table.",
        wide=True,
    )
    for number, site in enumerate(sites):
        _row(drawing, site, TOP + number * (ROW + GAP))
    drawing.text((LEFT + WIDTH) / 2, height - 5, "channel")
    table = Table(
        ("Place", "Channels", "Chosen", "Highest score", "Lowest chosen", "Share of the squared scores"),
        tuple(_numbers(site) for site in sites),
    )
    grouped = " Neighbouring channels share a bar, which has the larger score." if bars > MOST_BARS else ""
    return Picture(
        "Salient channels",
        "How strongly every channel answers to the images of the classes (the mean norm of its activations), from 0 to "
        f"the highest of its row. The coloured ones were chosen.{grouped}",
        drawing.markup(),
        table,
        wide=True,
        legend=(("chosen", 1), ("left alone", 5)),
    )


def _row(drawing: Drawing, site: _Site, top: float) -> None:
    size = -(-len(site.scores) // MOST_BARS)
    parts = [range(i, min(i + size, len(site.scores))) for i in range(0, len(site.scores), size)]
    wide, most = (WIDTH - LEFT) / len(parts), max(site.scores) or 1.0
    paths: dict[bool, list[str]] = {False: [], True: []}
    for i, part in enumerate(parts):
        height = ROW * max(site.scores[channel] for channel in part) / most
        chosen = any(channel in site.chosen for channel in part)
        paths[chosen].append(f"M{LEFT + i * wide:.1f} {top + ROW:g}v{-height:.1f}h{wide:.2f}v{height:.1f}z")
    drawing.text(LEFT - 6, top + ROW / 2 + 4, site.short, anchor="end")
    drawing.add("path", d=f"M{LEFT} {top + ROW}H{WIDTH}", class_="axis")
    for chosen, tone in ((False, 5), (True, 1)):
        if paths[chosen]:
            opacity = None if chosen else 0.45
            drawing.add("path", d="".join(paths[chosen]), class_=f"heat tone-{tone}", fill_opacity=opacity)


def _numbers(site: _Site) -> tuple[str, ...]:
    squares = [score * score for score in site.scores]
    share = sum(squares[channel] for channel in site.chosen) / (sum(squares) or 1.0)
    lowest = min(site.scores[channel] for channel in site.chosen)
    return (
        site.role,
        units.count(len(site.scores)),
        units.count(len(site.chosen)),
        units.decimal(max(site.scores)),
        units.decimal(lowest),
        units.percent(share),
    )


def _site(fields: Fields) -> _Site:
    scores, chosen = fields.numbers("scores"), fields.integers("chosen")
    role = fields.text("role")
    if role is None or not scores or not chosen or max(chosen) >= len(scores):
        raise fields.error("chosen", "numbers of scored channels beside a role", list(chosen))
    return _Site(role, scores, frozenset(chosen))

"""What E2VPT pruned after its first stage: the scores of every prompt and its segments, the pruned ones struck out.

The values: `{"token_score": "removal", "tokens": [per prompt], "segments": [[per segment], ...],
"kept_tokens": [0 or 1, ...], "kept_segments": [[0 or 1, ...], ...]}`.
"""

from __future__ import annotations

from vitune.report import units
from vitune.report.fields import Fields
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.record import RunRecord

WIDTH, LEFT, TOP, ROW, BAR, GAP = 420, 34, 24, 20, 130, 26
_HOW = {
    "removal": "by how much the loss rises without it",
    "segments": "by what its segments are worth together",
    "gradient": "by the gradient of its mask",
}


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """A picture for each method that pruned prompts.

    Args:
        run: The run.
        key: Start of ids; not needed here.

    Raises:
        RunError: If the values are not as described.
    """
    found = () if run.pictures is None else run.pictures.values_of("pruned_prompts")
    return tuple(_draw(values) for values in found)


def _draw(values: Fields) -> Picture:
    tokens, kept = values.numbers("tokens"), values.integers("kept_tokens")
    segments, kept_segments = values.number_rows("segments"), values.number_rows("kept_segments")
    count = len(segments[0]) if segments else 0
    shapes = {len(row) for row in (*segments, *kept_segments)}
    if not tokens or {len(kept), len(segments), len(kept_segments)} != {len(tokens)} or shapes != {count}:
        raise values.error("tokens", "one score per prompt, with segments and what was kept", list(tokens))
    height = TOP + ROW * len(tokens) + 6
    drawing = Drawing(WIDTH, height, _description(tokens, kept, kept_segments))
    zero, unit = _bar_scale(tokens)
    start = LEFT + BAR + GAP
    cell = (WIDTH - start - 4) / count
    drawing.text(LEFT + BAR / 2, 12, "prompt's score")
    drawing.text(start + count * cell / 2, 12, "segments' scores")
    for i, score in enumerate(tokens):
        y = TOP + i * ROW
        drawing.text(LEFT - 8, y + 13, str(i), anchor="end")
        end = zero + unit * score
        group = drawing.tip(f"prompt {i}: {score:.3g}, {'kept' if kept[i] else 'pruned'}")
        drawing.add(
            "rect", parent=group, x=min(zero, end), y=y + 3, width=max(abs(end - zero), 1.0), height=ROW - 6, rx=2,
            class_="heat tone-0" if kept[i] else "heat tone-5", fill_opacity=None if kept[i] else 0.45,
        )  # fmt: skip
        if not kept[i]:
            drawing.add("path", d=f"M{LEFT - 4} {y + ROW / 2}H{WIDTH - 4}", class_="strike")
        most = max(abs(value) for value in segments[i]) or 1.0
        for s, value in enumerate(segments[i]):
            stays = bool(kept_segments[i][s]) and bool(kept[i])
            words = "kept" if stays else "pruned"
            group = drawing.tip(f"prompt {i}, segment {s}: {value:.3g}, {words}")
            drawing.add(
                "rect", parent=group, x=start + s * cell + 1, y=y + 2, width=cell - 2, height=ROW - 4, rx=2,
                class_="heat tone-0" if stays else "heat tone-5",
                fill_opacity=round(0.15 + 0.85 * abs(value) / most, 3) if stays else 0.2,
            )  # fmt: skip
            if not stays and kept[i]:
                x = start + s * cell
                drawing.add(
                    "path", d=f"M{x + 3:g} {y + ROW - 4:g}L{x + cell - 3:g} {y + 4:g}", class_="strike"
                )
    drawing.add("path", d=f"M{zero:g} {TOP}V{TOP + ROW * len(tokens)}", class_="axis")
    how = _HOW.get(values.text("token_score") or "", "on the training images")
    table = Table(
        ("Prompt", "Score", "Stays", "Segments left", "Segments' scores"),
        tuple(
            (
                str(i),
                units.decimal(score),
                "yes" if kept[i] else "no",
                str(sum(map(bool, kept_segments[i])) if kept[i] else 0),
                ", ".join(f"{value:.3g}" for value in segments[i]),
            )
            for i, score in enumerate(tokens)
        ),
    )
    return Picture(
        "Which prompts were pruned",
        f"After the first stage every prompt was scored {how}, and every segment of it by the gradient of its mask. "
        "The lowest were struck out, the same ones in all blocks; the second stage trained the rest from the start.",
        drawing.markup(),
        table,
        legend=(("kept", 0), ("pruned", 5)),
    )


def _bar_scale(tokens: tuple[float, ...]) -> tuple[float, float]:
    """Where zero is, and units per score: scores may be negative."""
    low, high = min(0.0, *tokens), max(0.0, *tokens)
    unit = BAR / ((high - low) or 1.0)
    return LEFT - low * unit, unit


def _description(
    tokens: tuple[float, ...], kept: tuple[int, ...], segments: tuple[tuple[float, ...], ...]
) -> str:
    left = sum(map(bool, kept))
    parts = sum(sum(map(bool, row)) for row, stays in zip(segments, kept, strict=True) if stays)
    total = len(tokens) * len(segments[0])
    return f"{left} of {len(tokens)} prompts and {parts} of {total} segments were kept; numbers are in the table."

"""ALaST over the steps of a run: budgets, the blocks that trained, the tokens that entered them.

Drawn from the step lines of the log: `alast_budgets` (one number per block), `alast_trained` (block numbers) and
`alast_tokens` (tokens that entered each block).
"""

from __future__ import annotations

from collections.abc import Sequence

from vitune.report import units
from vitune.report.pictures._heat import heat_strip
from vitune.report.pictures._picture import Picture, Table
from vitune.report.record import RunRecord, Step


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """Three heat strips of blocks by steps; none where the log tells of no budgets.

    Args:
        run: The run.
        key: Start of ids; not needed here.
    """
    steps = [step for step in (run.log.steps if run.log else ()) if "alast_budgets" in step.values]
    if not steps:
        return ()
    blocks = max(len(_numbers(step, "alast_budgets")) for step in steps)
    budgets = [_padded(_numbers(step, "alast_budgets"), blocks) for step in steps]
    trained = [_flags(step, blocks) for step in steps]
    tokens = [_padded(_numbers(step, "alast_tokens"), blocks) for step in steps]
    rows = [f"block {block}" if block == 0 else str(block) for block in range(blocks)]
    columns = [step.step for step in steps]
    table = Table(
        ("Block", "Budget, first", "Budget, last", "Trained in", "Tokens in, mean"),
        tuple(
            (
                str(block),
                _two(budgets[0][block]),
                _two(budgets[-1][block]),
                units.percent(_mean([flags[block] for flags in trained])),
                _whole(_mean([one[block] for one in tokens])),
            )
            for block in range(blocks)
        ),
    )
    found = []
    known = [value for one in budgets for value in one if value is not None]
    budget_limits = (min(known), max(known))
    found.append(
        Picture(
            "Budgets of the blocks",
            "The share of its tokens that a block passes on. A fuller shade is a larger budget.",
            heat_strip(
                "Budgets of the blocks", rows, columns, budgets,
                limits=budget_limits, show=lambda value: f"{value:.2f}", x_label="step", tone=0,
            ),
            table,
        )
    )  # fmt: skip
    found.append(
        Picture(
            "Blocks that trained",
            "A full shade: the block trained in the logged steps; none: it was frozen. Between: in some of several.",
            heat_strip(
                "Blocks that trained", rows, columns, trained,
                limits=(0.0, 1.0), show=lambda value: f"{100 * value:.0f} %", x_label="step", tone=2,
            ),
            table,
        )
    )  # fmt: skip
    seen = [value for one in tokens for value in one if value is not None]
    if seen:
        found.append(
            Picture(
                "Tokens that entered each block",
                "Class token and patches together. A fuller shade is more tokens.",
                heat_strip(
                    "Tokens that entered each block", rows, columns, tokens,
                    limits=(0.0, max(seen)), show=lambda value: f"{value:.0f}", x_label="step", tone=3,
                ),
                table,
            )
        )  # fmt: skip
    return tuple(found)


def _numbers(step: Step, name: str) -> list[float]:
    values = step.values.get(name)
    if not isinstance(values, list):
        return []
    return [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def _padded(values: Sequence[float], blocks: int) -> list[float | None]:
    return [*values[:blocks], *[None] * (blocks - len(values))]


def _flags(step: Step, blocks: int) -> list[float | None]:
    trained = set(_numbers(step, "alast_trained"))
    return [float(block in trained) for block in range(blocks)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _two(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{value:.2f}"


def _whole(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{value:.1f}"

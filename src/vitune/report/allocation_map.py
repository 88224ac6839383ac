"""Where the budget of an allocating method (SPT) went: a heat map of blocks by matrices.

Every block is a row, every part of a block a column; a part's matrix is the large cell, its bias or a norm's shift the
small one below. A module and a vector that trains whole have colours of their own; of what trains entry by entry the
shade tells how many, on a logarithmic scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vitune.report.anatomy_columns import ALWAYS, COLUMNS, LABELS, TENSORS, place_of
from vitune.report.units import count, short_count

WIDTH, GUTTER, HEAD, ROW, GAP = 360, 26, 34, 26, 1
MATRIX_SHARE = 0.66  # of the height of a row
FAINTEST = 0.2
WHOLE, MODULE, ENTRIES = 0, 1, 2  # colour numbers
GROUPS = (("attn.", "attention"), ("mlp.", "MLP"))


@dataclass(frozen=True)
class HeatCell:
    """A rectangle; `tone` is None where nothing trains, `shade` is the opacity of the colour."""

    x: float
    y: float
    width: float
    height: float
    text: str
    tip: str
    tone: int | None
    shade: float = 1.0


@dataclass(frozen=True)
class HeatLabel:
    """Words at a place of the map."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class HeatBracket:
    """A group of columns with a name."""

    x: float
    y: float
    width: float
    text: str


@dataclass(frozen=True)
class AllocationMap:
    """The map, its legend (words and colour number), and the same in a sentence."""

    height: float
    description: str
    cells: tuple[HeatCell, ...]
    labels: tuple[HeatLabel, ...]
    brackets: tuple[HeatBracket, ...]
    legend: tuple[tuple[str, int], ...]
    width: int = WIDTH


@dataclass(frozen=True)
class _Share:
    """What one tensor got: a module, all of it, or a number of its entries."""

    tone: int
    entries: int = 0


def allocation_map(settings: Mapping[str, Any], blocks: int | None = None) -> AllocationMap | None:
    """Draw where a budget went.

    Args:
        settings: Of a method, with `structured` (roles), `vectors` (tensors) and `sparse` (`TENSOR:NUMBER`).
        blocks: Number of blocks; where None, as many as the settings name.

    Returns:
        The map, or None where the settings hold no allocation to single blocks.
    """
    shares = {key: share for key, share in _shares(settings) if key[0] is not None}
    if not shares:
        return None
    rows = max([blocks or 0, *(block + 1 for block, _, _ in shares if block is not None)])
    used = {part for _, part, _ in shares}
    parts = [p for p in COLUMNS if p in used or p in ALWAYS] + sorted(used - set(COLUMNS))
    most = max((share.entries for share in shares.values()), default=0)
    width = (WIDTH - GUTTER) / len(parts)
    module = _module_words(settings)
    cells, labels = [], []
    for column, part in enumerate(parts):
        text = LABELS.get(part, part.rpartition(".")[2])
        labels.append(HeatLabel(round(GUTTER + (column + 0.5) * width, 1), HEAD - 6, text))
    brackets = []
    for prefix, words in GROUPS:
        inside = [column for column, part in enumerate(parts) if part.startswith(prefix)]
        first, length = GUTTER + inside[0] * width + 2, (inside[-1] + 1 - inside[0]) * width - 4
        brackets.append(HeatBracket(round(first, 1), HEAD - 18, round(length, 1), words))
    for block in range(rows):
        top = HEAD + block * ROW
        labels.append(HeatLabel(GUTTER / 2 - 1, top + ROW / 2 + 3.5, str(block)))
        for column, part in enumerate(parts):
            for tensor in TENSORS:
                share = shares.get((block, part, tensor))
                name = f"blocks.{block}.{part}.{tensor}"
                cells.append(_cell(GUTTER + column * width, top, width, name, tensor, share, most, module))
    words = {WHOLE: "trains whole", MODULE: module, ENTRIES: "entry by entry"}
    tones = sorted({share.tone for share in shares.values()})
    return AllocationMap(
        height=HEAD + rows * ROW + 4,
        description=_description(shares.values(), rows, module),
        cells=tuple(cells),
        labels=tuple(labels),
        brackets=tuple(brackets),
        legend=tuple((words[tone], tone) for tone in tones),
    )


def _shares(settings: Mapping[str, Any]) -> Iterator[tuple[tuple[int | None, str, str], _Share]]:
    for role in _texts(settings, "structured"):
        place = place_of(role)
        yield (place.block, place.part, "weight"), _Share(MODULE)
    for name in _texts(settings, "vectors"):
        place = place_of(name)
        yield (place.block, place.part, place.tensor), _Share(WHOLE)
    for text in _texts(settings, "sparse"):
        name, _, number = text.rpartition(":")
        place = place_of(name)
        if number.isdecimal():
            yield (place.block, place.part, place.tensor), _Share(ENTRIES, int(number))


def _texts(settings: Mapping[str, Any], key: str) -> list[str]:
    values = settings.get(key)
    return [value for value in values if isinstance(value, str)] if isinstance(values, list | tuple) else []


def _module_words(settings: Mapping[str, Any]) -> str:
    kind = {"lora": "LoRA", "adapter": "adapter"}.get(str(settings.get("structure")), "module")
    rank = settings.get("rank")
    return f"{kind} of rank {rank}" if kind == "LoRA" and rank else f"{kind} of {rank}" if rank else kind


def _cell(
    x: float, top: float, width: float, name: str, tensor: str, share: _Share | None, most: int, module: str
) -> HeatCell:
    matrix = tensor == "weight"
    height = ROW * (MATRIX_SHARE if matrix else 1 - MATRIX_SHARE)
    y = top if matrix else top + ROW * MATRIX_SHARE
    text, tip, shade = "", f"{name} is frozen", 1.0
    if share is not None and share.tone == ENTRIES:
        shade = FAINTEST + (1 - FAINTEST) * (math.log1p(share.entries) / math.log1p(most))
        text = short_count(share.entries) if matrix else ""
        tip = f"{name}\n{count(share.entries)} entries train"
    elif share is not None:
        tip = f"{name}\n{module if share.tone == MODULE else 'trains whole'}"
    return HeatCell(
        round(x + GAP, 1),
        round(y + GAP / 2, 1),
        round(width - 2 * GAP, 1),
        round(height - GAP, 1),
        text,
        tip,
        None if share is None else share.tone,
        round(shade, 3),
    )


def _description(shares: Any, rows: int, module: str) -> str:
    shares = list(shares)
    modules = sum(share.tone == MODULE for share in shares)
    whole = sum(share.tone == WHOLE for share in shares)
    tensors = [share.entries for share in shares if share.tone == ENTRIES]
    kind = re.sub(r" of .*", "", module)
    article = "an" if kind == "adapter" else "a"
    return (
        f"{_times(rows, 'block', 'blocks')}. {_times(modules, 'matrix', 'matrices')} with {article} {kind}, "
        f"{_times(whole, 'vector', 'vectors')} trained whole, {_times(sum(tensors), 'single entry', 'single entries')} "
        f"in {_times(len(tensors), 'tensor', 'tensors')}."
    )


def _times(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}"

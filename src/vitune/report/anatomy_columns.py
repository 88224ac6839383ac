"""Where an edit lies in the drawing of the backbone: which column of a block, or which bar outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitune.report.record import EditLine

# Parts of a block in the order of the forward pass; those not in ALWAYS have a column only where tuned.
COLUMNS = (
    *(
        "norm1",
        "attn.input",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.out",
        "attn.output",
        "attn.beside",
        "middle",
    ),
    *("norm2", "mlp.input", "mlp.in", "mlp.gate", "mlp.out", "mlp.output", "mlp.beside", "output", "other"),
)
ALWAYS = ("norm1", "attn.q", "attn.k", "attn.v", "attn.out", "norm2", "mlp.in", "mlp.out")
SPANS = {
    "block": ("norm1", "mlp.out"),
    "attn": ("attn.q", "attn.out"),
    "attn.qkv": ("attn.q", "attn.v"),
    "mlp": ("mlp.in", "mlp.out"),
}
LABELS = {"norm1": "norm", "norm2": "norm"}
TENSORS = ("weight", "bias")

BARS_BEFORE = ("patch_embed", "embeddings", "norm_pre")
BARS_AFTER = ("norm", "pool", "fc_norm", "head")
BARS_ALWAYS = ("patch_embed", "norm", "head")


@dataclass(frozen=True)
class Place:
    """A role taken apart.

    Attributes:
        block: Number of the block, None outside the blocks.
        part: The part of the block (`block` for the whole), or the role outside the blocks.
        tensor: `weight` or `bias` where the role names one of a layer's tensors, else empty.
    """

    block: int | None
    part: str
    tensor: str


@dataclass(frozen=True)
class Item:
    """An edit inside one row: columns from `first` to `last`, both included."""

    first: int
    last: int
    role: str
    edit: str
    parameters: int


def place_of(role: str) -> Place:
    """Take a role apart: `blocks.3.attn.qkv.bias` is the bias of attn.qkv in block 3."""
    pieces = role.split(".")
    block = None
    if len(pieces) > 1 and pieces[0] == "blocks" and pieces[1].isdecimal():
        block = int(pieces[1])
        pieces = pieces[2:] or ["block"]
    tensor = pieces.pop() if len(pieces) > 1 and pieces[-1] in TENSORS else ""
    return Place(block, ".".join(pieces), tensor)


def columns_for(edits: Iterable[EditLine]) -> tuple[str, ...]:
    """The columns that a drawing of these edits needs."""
    places = [place_of(edit.role) for edit in edits]
    used = {_column(place.part) for place in places if place.block is not None and place.part not in SPANS}
    return tuple(column for column in COLUMNS if column in ALWAYS or column in used)


def items_of(block: int, edits: Iterable[EditLine], columns: Sequence[str]) -> list[Item]:
    """The edits of one block, those of the same kind in the same columns put together."""
    items = []
    for edit in edits:
        place = place_of(edit.role)
        if place.block == block:
            first, last = SPANS.get(place.part, (_column(place.part),) * 2)
            items.append(
                Item(columns.index(first), columns.index(last), edit.role, edit.edit, edit.parameters)
            )
    return merged(items)


def bar_of(role: str) -> str | None:
    """The bar of a role outside the blocks, None inside; class tokens, positions, prompts are embeddings."""
    place = place_of(role)
    if place.block is not None:
        return None
    first = place.part.split(".")[0]
    return first if first in (*BARS_BEFORE, *BARS_AFTER) else "embeddings"


def merged(items: Iterable[Item]) -> list[Item]:
    """One item for each edit and stretch of columns (a layer's weight and bias may be two edits)."""
    sums: dict[tuple[int, int, str], tuple[list[str], int]] = {}
    for item in items:
        roles, parameters = sums.get((item.first, item.last, item.edit), ([], 0))
        sums[item.first, item.last, item.edit] = ([*roles, item.role], parameters + item.parameters)
    return [
        Item(first, last, " + ".join(roles), edit, total)
        for (first, last, edit), (roles, total) in sums.items()
    ]


def overlap(a: Item, b: Item) -> bool:
    """Whether two items share a column."""
    return a.first <= b.last and b.first <= a.last


def lanes_of(items: Sequence[Item]) -> list[int]:
    """For each item the lowest lane where no earlier item covers one of its columns."""
    lanes: list[int] = []
    for index, item in enumerate(items):
        taken = {lanes[other] for other in range(index) if overlap(item, items[other])}
        lanes.append(next(lane for lane in range(index + 1) if lane not in taken))
    return lanes


def _column(part: str) -> str:
    """The column of a part; parts that no column stands for share one."""
    return next((c for c in COLUMNS if part == c or part.startswith(c + ".")), "other")

"""Where SCT's maps act, and where the activations are measured that choose their channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vitune.anatomy import Anatomy, Block
from vitune.errors import NothingMatchedError, UnsupportedBackboneError

if TYPE_CHECKING:
    from vitune.methods.sct.settings import SCT


@dataclass(frozen=True)
class Site:
    """One map.

    Attributes:
        role: Where it acts: `blocks.I.middle`, `blocks.I.mlp.out`, `blocks.I.attn.q` or `.v`.
        operator_role: Role of the whole layer there; the same as `role` but for rows of a fused layer.
        path: Module that is edited: the block, or the layer.
        rows: Rows of the layer's output that it acts on; None: all.
        width: Number of channels to choose from.
        measured: Module whose tensor is measured.
        tensor: Which one: what passes the `middle` point of the block, or the module's `output`.
    """

    role: str
    operator_role: str
    path: str
    rows: slice | None
    width: int
    measured: str
    tensor: Literal["middle", "output"]


def sites(anatomy: Anatomy, settings: SCT) -> list[Site]:
    """All maps, in the order of the forward pass.

    Raises:
        NothingMatchedError: If there is no block of a given number.
        UnsupportedBackboneError: If a block has no layer of the role, or no linear one.
    """
    found: list[Site] = []
    for block in _blocks(anatomy, settings.blocks):
        here = f"blocks.{block.index}"
        if settings.mode == "attn":
            role = f"{here}.middle"
            found.append(Site(role, role, block.path, None, block.width, block.path, "middle"))
            continue
        names = ("mlp.out",) if settings.mode == "mlp" else ("attn.q", "attn.v")
        found += [_on_layer(anatomy, block, f"{here}.{name}", settings) for name in names]
    return found


def _on_layer(anatomy: Anatomy, block: Block, role: str, settings: SCT) -> Site:
    slot = anatomy.slots().get(role)
    if slot is None or slot.operator.kind != "linear" or slot.operator.layout != "NLC":
        kind = "is missing" if slot is None else f"is a {slot.operator.kind} ({slot.operator.layout})"
        raise UnsupportedBackboneError(
            f"sct: mode={settings.mode} needs a linear layer on tokens at '{role}', which {kind} in this "
            f"{anatomy.family} backbone."
        )
    of_block = settings.mode == "mlp" and not settings.score_where_it_acts
    return Site(
        role,
        slot.operator.role,
        slot.operator.path,
        slot.rows,
        slot.out_features,
        block.path if of_block else slot.operator.path,
        "output",
    )


def _blocks(anatomy: Anatomy, numbers: tuple[int, ...]) -> list[Block]:
    if numbers:
        known = {block.index: block for block in anatomy.blocks}
        for number in numbers:
            if number not in known:
                raise NothingMatchedError(
                    f"sct: there is no block {number}; this {anatomy.family} backbone has blocks 0 to {max(known)}."
                )
        return [known[number] for number in sorted(set(numbers))]
    last = max(block.stage for block in anatomy.blocks)
    if last == 0:
        return list(anatomy.blocks)
    # Swin-B of the paper: the last 9 of the 18 blocks of stage 3, and both of stage 4.
    before = [block for block in anatomy.blocks if block.stage == last - 1]
    return [*before[len(before) // 2 :], *(block for block in anatomy.blocks if block.stage == last)]

"""The anatomy as a tree to look at."""

from __future__ import annotations

from vitune.anatomy._roles import Anatomy, Operator


def tree(found: Anatomy) -> str:
    """Draw the roles of a backbone as indented text, equal blocks folded into one line.

    Args:
        found: The anatomy.
    """
    lines = [
        f"{found.family}: {_input(found)}, width {found.width}, {len(found.blocks)} blocks, "
        f"pooling '{found.pooling}'"
    ]
    waiting = list(found.operators)  # in the order of the forward pass
    for first, last, operators in _runs(found):
        while waiting and not waiting[0].role.startswith("blocks."):
            lines.append(_line("  ", waiting[0].role, waiting.pop(0)))
        run = tuple(f"blocks.{i}." for i in range(first, last + 1))
        waiting = [operator for operator in waiting if not operator.role.startswith(run)]
        name = f"blocks.{first}" if first == last else f"blocks.{first} .. {last}"
        heads = found.blocks[first].num_heads
        lines.append(f"  {name}  ({heads} heads)" if heads else f"  {name}")
        for operator in operators:
            lines.append(_line("    ", operator.role.split(".", 2)[2], operator))
    lines += [_line("  ", operator.role, operator) for operator in waiting]
    lines += [f"  head  {path}  (always trains)" for path in found.head]
    return "\n".join(lines)


def _input(found: Anatomy) -> str:
    """What the model reads."""
    if found.vocabulary:
        return f"text of {found.vocabulary:,} different tokens"
    channels, height, width = found.input_size
    return (
        f"{channels} x {height} x {width} pixels, {found.grid[0]} x {found.grid[1]} patches, "
        f"{found.num_prefix_tokens} prefix tokens"
    )


def _runs(found: Anatomy) -> list[tuple[int, int, list[Operator]]]:
    """Consecutive blocks with the same operators: (first, last, operators of the first)."""
    runs: list[tuple[int, int, list[Operator]]] = []
    previous = None
    for block in found.blocks:
        start = f"blocks.{block.index}."
        operators = [o for o in found.operators if o.role.startswith(start)]
        shape = [(o.role.removeprefix(start), o.kind, o.in_features, o.out_features) for o in operators]
        if runs and shape == previous and block.stage == found.blocks[runs[-1][0]].stage:
            runs[-1] = (runs[-1][0], block.index, runs[-1][2])
        else:
            runs.append((block.index, block.index, operators))
        previous = shape
    return runs


def _line(indent: str, name: str, operator: Operator) -> str:
    size = f"{operator.in_features} -> {operator.out_features}"
    if operator.kind in ("norm", "identity"):
        size = str(operator.out_features)
    parts = ", ".join(role.split(".")[-1] for role in operator.parts)
    return (
        f"{indent}{name:<12} {operator.kind} {size}"
        + (f"  rows: {parts}" if parts else "")
        + f"  [{operator.path}]"
    )

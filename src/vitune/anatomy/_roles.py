"""The parts of a backbone, named by role.

Roles: `patch_embed`, `norm_pre`, `blocks.I.norm1`, `blocks.I.attn.q|k|v` (and `blocks.I.attn.qkv` where the three are
one layer), `blocks.I.attn.out`, `blocks.I.norm2`, `blocks.I.mlp.in|gate|out`, `norm`, `pool.*` (attention pooling),
`fc_norm`, `head`. The short name of a role is what follows `blocks.I.`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from vitune.errors import NothingMatchedError, did_you_mean

Kind = Literal["linear", "conv", "norm", "identity"]
Layout = Literal["NLC", "NCHW"]

ALL_LINEAR, ALL_CONV = "all-linear", "all-conv"


@dataclass(frozen=True)
class Operator:
    """One layer that computes something, and the roles its output rows play.

    Attributes:
        role: Its own role, for instance `blocks.3.attn.qkv`.
        path: Where the module sits in the model.
        kind: What it computes. `identity` is a place where a family leaves out a norm.
        in_features: Channels of its input.
        out_features: Channels of its output.
        layout: Where the channels of its output are: last (`NLC`) or after the batch (`NCHW`).
        parts: Roles of row slices of the output, for a layer that fuses several roles.
        biases: Names of its bias parameters, where the family keeps them apart from the layer.
    """

    role: str
    path: str
    kind: Kind
    in_features: int
    out_features: int
    layout: Layout = "NLC"
    parts: Mapping[str, slice] = field(default_factory=dict)
    biases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slot:
    """What a role resolves to: an operator, and the output rows that play the role (None: all)."""

    role: str
    operator: Operator
    rows: slice | None = None

    @property
    def out_features(self) -> int:
        """Number of output rows."""
        return self.operator.out_features if self.rows is None else self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Block:
    """One block of the residual stream: of a transformer, or of a network built like one.

    Attributes:
        index: Its number, from 0, counted through all stages.
        path: Where the module sits in the model.
        width: Channels of its residual stream.
        num_heads: Attention heads; 0 where it has no attention.
        attention: Path of its attention module; empty where it has none.
        stage: Number of its stage, from 0, in a hierarchical backbone.
    """

    index: int
    path: str
    width: int
    num_heads: int
    attention: str = ""
    stage: int = 0


@dataclass(frozen=True)
class Anatomy:
    """What a backbone is made of.

    Attributes:
        family: Name of the family, for instance `timm-vit`.
        model: The model described.
        operators: The layers of the backbone in the order of the forward pass, without the head.
        blocks: The transformer blocks.
        head: Paths of the modules that classify; they always train and no pattern matches them.
        width: Channels of the residual stream.
        num_prefix_tokens: Tokens in front of the patch tokens (class, distillation, register).
        grid: Patches along height and width.
        input_size: (channels, height, width) of an image.
        pooling: How tokens become one vector: `token`, `avg`, `map`, `token+avg` (both, side by side) ...
        unused: Parameters, or modules of them, that the class scores do not depend on, such as mask tokens.
        vocabulary: Different tokens that a model of text reads; it has no grid and no size of an image (all 0). 0: it
            reads images.
    """

    family: str
    model: nn.Module = field(repr=False, compare=False)
    operators: tuple[Operator, ...]
    blocks: tuple[Block, ...]
    head: tuple[str, ...]
    width: int
    num_prefix_tokens: int
    grid: tuple[int, int]
    input_size: tuple[int, int, int]
    pooling: str
    unused: tuple[str, ...] = ()
    vocabulary: int = 0

    def slots(self) -> dict[str, Slot]:
        """Every role, those of fused layers and of their slices, in order."""
        found: dict[str, Slot] = {}
        for operator in self.operators:
            found[operator.role] = Slot(operator.role, operator)
            for role, rows in operator.parts.items():
                found[role] = Slot(role, operator, rows)
        return found

    def find(self, patterns: Sequence[str]) -> list[Slot]:
        """Resolve role patterns.

        A pattern is a role (`blocks.3.attn.q`), a short name (`attn.q`: in every block), one of both with shell
        wildcards (`blocks.[0-3].mlp.*`; matches whole layers, never a layer and its slices), `all-linear` or
        `all-conv` (every linear layer or convolution inside the blocks).

        Args:
            patterns: The patterns; every one must match.

        Returns:
            The slots, in the order of the forward pass, each once.

        Raises:
            NothingMatchedError: If a pattern matches nothing; names the nearest role.
        """
        slots = self.slots()
        chosen: set[str] = set()
        for pattern in patterns:
            matched = {role for role, slot in slots.items() if _matches(pattern, slot)}
            if not matched:
                raise NothingMatchedError(self._nothing_matched(pattern))
            chosen |= matched
        return [slot for role, slot in slots.items() if role in chosen]

    def _nothing_matched(self, pattern: str) -> str:
        if pattern == "head" or pattern in self.head:
            return (
                "role 'head' cannot be adapted: the head always trains as it is; leave it out of the roles."
            )
        names = {short_name(role) for role in self.slots()}
        return f"no role '{pattern}' in this {self.family} backbone. {did_you_mean(pattern, names)}"

    def role_of(self, path: str) -> str:
        """The role name of a module or parameter path, or the path itself where no role covers it."""
        return _renamed(path, self._names())

    def path_of(self, role: str) -> str:
        """The inverse of `role_of`."""
        return _renamed(role, [(role, path) for path, role in self._names()])

    def _names(self) -> list[tuple[str, str]]:
        """(path, role) of everything that has a role."""
        names = [(operator.path, operator.role) for operator in self.operators]
        names += [(block.path, f"blocks.{block.index}") for block in self.blocks]
        return names + [(path, f"head.{i}" if i else "head") for i, path in enumerate(self.head)]


def short_name(role: str) -> str:
    """The role without its block and parallel branch: `blocks.3.attn.q` and `blocks.3.parallel.1.attn.q` give
    `attn.q`."""
    return re.sub(r"^blocks\.\d+\.(parallel\.\d+\.)?", "", role)


def _matches(pattern: str, slot: Slot) -> bool:
    if pattern in (ALL_LINEAR, ALL_CONV):
        of_kind = pattern == f"all-{slot.operator.kind}"
        return slot.rows is None and of_kind and slot.role.startswith("blocks.")
    short = short_name(slot.role)
    if pattern in (slot.role, short):
        return True
    if slot.rows is not None and not pattern.endswith("." + short):
        return False  # `blocks.0.*` means the layers, not their slices again
    return fnmatch.fnmatchcase(slot.role, pattern) or fnmatch.fnmatchcase(short, pattern)


def _renamed(name: str, pairs: list[tuple[str, str]]) -> str:
    """Replace the longest leading dotted name that the pairs know."""
    for old, new in sorted(pairs, key=lambda pair: -len(pair[0])):
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name

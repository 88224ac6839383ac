"""Random suffix: in every step only the last blocks train, as many as are drawn.

Our own rule, found beside ALaST as the one that keeps accuracy at half of the work (`benchmarks/alast_accuracy.py`):
the backward pass stops at the lowest block that trains, so that what lies below costs a forward pass and keeps nothing.
With `deepest` equal to `k` the number is always the same: Partial-k of Jia et al., "Visual Prompt Tuning", ECCV 2022
(arXiv:2203.12119), section 4.1.

How many blocks train has the distribution of largest entropy on 1 ... `deepest` with mean `k`: P(n) ~ exp(-s n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method, Policy, Run
from vitune.methods._registry import register
from vitune.randomness import derive_seed
from vitune.surgery import Step

if TYPE_CHECKING:
    from vitune.tuned import Tuned


@register
@dataclass(frozen=True, kw_only=True)
class Suffix(Method):
    """Settings of the random suffix.

    Attributes:
        k: Blocks that train in a step, in the mean; None: a quarter of them, or `deepest` if that is less.
        deepest: The most blocks that train in a step; those in front of them never train. None: twice `k`.
    """

    name: ClassVar[str] = "suffix"
    title: ClassVar[str] = "Random suffix"
    paper: ClassVar[str] = "ours"
    default_lr: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = True
    acts_on_others: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    search_space: ClassVar = {"k": (None, 1, 2, 4)}
    conflicts: ClassVar[Mapping[str, str]] = {
        "linear": "a linear probe trains no block",
        "alast": "both decide which blocks train",
        "dyt": "gates in blocks that hardly train would skip tokens at random",
        "hst": "the side network lies beside all blocks",
        **dict.fromkeys(("vpt", "e2vpt"), "prompts are learned through all blocks behind them"),
    }

    k: int | None = None
    deepest: int | None = None

    def __post_init__(self) -> None:
        self.require(self.k is None or self.k >= 1, "k", "at least 1")
        self.require(self.deepest is None or self.deepest >= (self.k or 1), "deepest", "at least k")

    def lengths(self, blocks: int) -> tuple[float, ...]:
        """The probabilities that 1, 2, ... of the last blocks train.

        Args:
            blocks: Of the backbone.
        """
        mean = max(1, round(blocks / 4)) if self.k is None else self.k
        deepest = min(2 * mean, blocks) if self.deepest is None else self.deepest
        return largest_entropy(deepest, min(mean, deepest))

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """None of its own: see `narrowed`."""
        return []

    def narrowed(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """Without what lies in front of the lowest block that is ever drawn, which would never train.

        Raises:
            UnsupportedBackboneError: If the backbone has no blocks, or fewer than are to train.
        """
        blocks = len(anatomy.blocks)
        if not blocks:
            raise UnsupportedBackboneError(f"suffix: {anatomy.family} backbones have no blocks in a row.")
        for name, value in (("k", self.k), ("deepest", self.deepest)):
            if value is not None and value > blocks:
                raise UnsupportedBackboneError(
                    f"suffix: {name} is {value}, and the backbone has {blocks} blocks."
                )
        positions = _positions(anatomy)
        never = blocks - len(self.lengths(blocks))
        return [step for step in steps if _position(step.path, positions, anatomy) >= never]

    def policy(self, tuned: Tuned) -> Policy:
        """Draws the number of blocks."""
        return SuffixPolicy(tuned, self.lengths(len(tuned.anatomy.blocks)))


class SuffixPolicy(Policy):
    """Before the first step as many blocks train as ever will, which is what costs are counted for.

    Args:
        tuned: The model.
        lengths: Probabilities that 1, 2, ... blocks train.
    """

    def __init__(self, tuned: Tuned, lengths: Sequence[float]) -> None:
        self._blocks, self._logs = len(tuned.anatomy.blocks), np.log(np.maximum(lengths, 1e-300))
        positions = _positions(tuned.anatomy)
        self._parameters = [(positions[name], p) for name, p in tuned.trainable().items()]
        self._seed, self._length = 0, len(lengths)
        self.train_last(self._length)

    @property
    def length(self) -> int:
        """How many of the last blocks train in this step."""
        return self._length

    def begin(self, run: Run) -> None:
        """Take over the seed."""
        self._seed = run.seed

    def before_step(self, step: int) -> None:
        """Draw, as a function of seed and step."""
        generator = np.random.default_rng(derive_seed(self._seed, "suffix", step))
        self.train_last(1 + int(np.argmax(self._logs + generator.gumbel(size=len(self._logs)))))

    def train_last(self, length: int) -> None:
        """Let this many of the last blocks train, with what lies between and behind them, and nothing in front.

        Args:
            length: Number of blocks.
        """
        self._length = length
        for position, parameter in self._parameters:
            trains = position >= self._blocks - length
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None

    def kinds(self) -> list[tuple[float, AbstractContextManager[None]]]:
        """One for each number of blocks."""
        shares = np.exp(self._logs).tolist()
        return [(share, self._as_if(length)) for length, share in enumerate(shares, 1) if share > 1e-6]

    @contextmanager
    def _as_if(self, length: int) -> Iterator[None]:
        before = self._length
        self.train_last(length)
        try:
            yield
        finally:
            self.train_last(before)

    def next_stage(self) -> bool:
        """No stage of its own; as much may train at the start of another's as in any step."""
        self.train_last(len(self._logs))
        return False

    def log(self) -> dict[str, Any]:
        """How many blocks trained."""
        return {"suffix_blocks": self._length}


def largest_entropy(most: int, mean: float) -> tuple[float, ...]:
    """The distribution of largest entropy on 1 ... `most` with a given mean.

    Args:
        most: Largest number.
        mean: From 1 to `most`.
    """
    numbers = np.arange(1, most + 1)

    def weights(s: float) -> np.ndarray:
        found = np.exp(-s * numbers - np.max(-s * numbers))
        return found / found.sum()

    low, high = -64.0, 64.0  # beyond them one number is certain
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if weights(middle) @ numbers > mean else (low, middle)
    return tuple(weights((low + high) / 2).tolist())


def _positions(anatomy: Anatomy) -> dict[str, float]:
    """For each parameter the block that it trains with, or, behind some, the last of those and a half; in front of all
    it is the first. Libraries register modules in the order in which they run; the head lies behind everything."""
    starts = {f"{block.path}.": block.index for block in anatomy.blocks}
    heads = tuple(f"{path}." for path in anatomy.head)
    found: dict[str, float] = {}
    latest = 0.0
    for name, _ in anatomy.model.named_parameters():
        block = next((index for start, index in starts.items() if name.startswith(start)), None)
        if block is not None:
            latest = max(latest, block + 0.5)
        found[name] = math.inf if name.startswith(heads) else latest if block is None else block
    return found


def _position(path: str, positions: Mapping[str, float], anatomy: Anatomy) -> float:
    """That of a parameter, or of a module: of its block, or of the first parameter in it. The whole model is last."""
    if path in positions:
        return positions[path]
    inside = f"{path}." if path else ""
    block = next((block.index for block in anatomy.blocks if inside.startswith(f"{block.path}.")), None)
    if block is not None:
        return block
    return min(
        (place for name, place in positions.items() if inside and name.startswith(inside)), default=math.inf
    )

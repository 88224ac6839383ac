"""Comparing times so that drift of the machine hits all alike: interleaved rounds, medians, ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vitune.errors import ConfigError


@dataclass(frozen=True)
class Ratio:
    """How much longer one function takes than another.

    Attributes:
        median: Median time of the one divided by the median time of the other.
        low: Smallest ratio within one round.
        high: Largest ratio within one round.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """The times of one function, in seconds.

    Attributes:
        seconds: Wall time of each round.
        cpu_seconds: CPU time of each round, all threads of the process together.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median wall time."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Shortest wall time."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Longest wall time."""
        return max(self.seconds)

    @property
    def cpu_median(self) -> float:
        """Median CPU time. On a busy machine it is steadier than wall time."""
        return statistics.median(self.cpu_seconds)

    def ratio_to(self, base: Timing, *, cpu: bool = False) -> Ratio:
        """This function's time over that of another one from the same comparison.

        Args:
            base: What stands below the line.
            cpu: Compare CPU time in place of wall time.

        Raises:
            ConfigError: If the two have different numbers of rounds, so are not from one comparison.
        """
        ours, theirs = (t.cpu_seconds if cpu else t.seconds for t in (self, base))
        if len(ours) != len(theirs):
            raise ConfigError(
                f"ratio_to: {len(ours)} rounds against {len(theirs)}; "
                "take both timings from one compare_seconds call."
            )
        rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
        return Ratio(statistics.median(ours) / statistics.median(theirs), min(rounds), max(rounds))


def compare_seconds(
    functions: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 7,
    warmup: int = 1,
    synchronize: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Time several functions in turn: A B C, C B A, A B C, ...

    Args:
        functions: What is timed, by name; called without arguments.
        rounds: How often each is timed.
        warmup: How often each is called before, untimed.
        synchronize: Called before each reading of the clock, for instance `torch.cuda.synchronize`: a GPU
            works on after the call has returned.

    Raises:
        ConfigError: If there is no function, `rounds` is below 1 or `warmup` below 0.
    """
    if not functions or rounds < 1 or warmup < 0:
        raise ConfigError(
            f"compare_seconds: needs a function, rounds >= 1 and warmup >= 0, "
            f"got {len(functions)} functions, rounds={rounds}, warmup={warmup}."
        )
    wall: dict[str, list[float]] = {name: [] for name in functions}
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    for name in functions:
        for _ in range(warmup):
            functions[name]()
    for index in range(rounds):
        # Turning the order round cancels a steady drift: nobody is always first.
        for name in list(functions) if index % 2 == 0 else reversed(list(functions)):
            if synchronize:
                synchronize()
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            functions[name]()
            if synchronize:
                synchronize()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in functions}

"""What a user asks of a suite, and the comparison that follows for each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vitune.bench.compare import rates_around_default
from vitune.bench.compare_request import CompareRequest, Engine, canonical, check_engine
from vitune.errors import ConfigError, NothingMatchedError, did_you_mean
from vitune.suites import Suite, SuiteProtocol, Task
from vitune.tasks.request import DataSettings, ModelSettings


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """All that decides a run of a suite.

    Args:
        suite: The suite.
        root: Folder of its data.
        out: Folder of the results, with one comparison per task below it.
        methods: Methods as text; none are the suite's own.
        protocol: Name of one of the suite's protocols; None is its default.
        tasks: Names or groups of the tasks to run, `*` standing for anything; none are all.
        baseline: The method that the others are compared with; None is `linear` if it is there, else the first.
        search: As for a comparison; None is what the suite says.
        seeds: How many seeds; None is what the suite says.
        model: The backbone.
        training: Settings of training that go before the suite's.
        data: Settings of the data that go before the suite's, but not before those of single tasks.
        workers: Processes that read images.
        engine: Where trials run, as for a comparison.
        retry_failed: Try failed trials again.
        command: The command line, as the report is to show it.

    Raises:
        VituneError: If something is unknown, missing or out of range.
    """

    suite: Suite
    root: Path
    out: Path
    methods: tuple[str, ...] = ()
    protocol: str | None = None
    tasks: tuple[str, ...] = ()
    baseline: str | None = None
    search: str | None = None
    seeds: int | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 2
    engine: Engine = "local"
    retry_failed: bool = False
    command: str | None = None

    def __post_init__(self) -> None:
        methods = self.methods or self.suite.methods
        if not methods:
            raise ConfigError(
                f"the suite '{self.suite.name}' has no methods of its own; name two or more: "
                f"vitune bench {self.suite.name} --methods linear,ssf."
            )
        object.__setattr__(self, "methods", tuple(canonical(text) for text in methods))
        check_engine(self.engine)
        self.chosen_protocol()
        self.chosen_tasks()

    def chosen_protocol(self) -> SuiteProtocol:
        """The protocol that is run."""
        return self.suite.protocol(self.protocol)

    def chosen_tasks(self) -> tuple[Task, ...]:
        """The tasks that are run, in the order of the suite.

        Raises:
            NothingMatchedError: If a pattern matches no task.
        """
        if not self.tasks:
            return self.suite.tasks
        names = {task.name: task for task in self.suite.tasks}
        groups = {task.group for task in self.suite.tasks if task.group}
        for pattern in self.tasks:
            if not any(_matches(pattern, task) for task in self.suite.tasks):
                hint = did_you_mean(pattern, {*names, *groups})
                raise NothingMatchedError(f"the suite '{self.suite.name}' has no task '{pattern}'. {hint}")
        return tuple(task for task in names.values() if any(_matches(p, task) for p in self.tasks))

    def comparison(self, task: Task, path: Path) -> CompareRequest:
        """The comparison of a task.

        Args:
            task: Which one.
            path: Where its data are.

        Raises:
            ConfigError: If the settings do not fit together; names the task.
        """
        protocol = self.chosen_protocol()
        try:
            return CompareRequest(
                data=DataSettings(
                    path=path, **{**self.suite.data, **protocol.data, **self.data, **task.data}
                ),
                methods=self.methods,
                baseline=self.baseline,
                model=self.model,
                search=self.suite.search if self.search is None else self.search,
                rates=self._rates(),
                seeds=self.suite.seeds if self.seeds is None else self.seeds,
                training={**self.suite.train, **protocol.train, **task.train, **self.training},
                workers=self.workers,
                engine=self.engine,
                out=self.out / task.name,
                name=protocol.name,
                retry_failed=self.retry_failed,
                command=self.command,
            )
        except ConfigError as error:
            raise ConfigError(f"task '{task.name}': {error}") from None

    def _rates(self) -> dict[str, tuple[float, ...]] | None:
        """The suite's learning rates, unless the user asks for another search."""
        if self.search is not None or not self.suite.rates:
            return None
        given = {canonical(method): rates for method, rates in self.suite.rates.items()}
        rates = {
            method: given.get(method) or rates_around_default(method, self.suite.search)
            for method in self.methods
        }
        if len({len(values) for values in rates.values()}) > 1:
            without = ", ".join(method for method in self.methods if method not in given)
            raise ConfigError(
                f"the suite '{self.suite.name}' has no learning rates for {without}, and a search would give them "
                "another number of candidates than the others; add them to its [rates], or give --search small."
            )
        return rates


def _matches(pattern: str, task: Task) -> bool:
    return fnmatchcase(task.name, pattern) or (bool(task.group) and fnmatchcase(task.group, pattern))

"""The honest protocol: choose on the validation split with one seed, test the choice once with several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as TypingProtocol

from vitune.bench.search import Candidate, Grid, Search, Tried
from vitune.bench.selection import ValidationResult, select
from vitune.bench.trial import Stage, Trial
from vitune.bench.trials import TrialOutcome, TrialRunner
from vitune.errors import ConfigError, RunError


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of a benchmark: a method on a backbone on a data set, with the settings to choose from.

    Attributes:
        data: Name of the data set.
        model: Name of the backbone.
        methods: The methods as the command line spells them.
        grid: The candidates; each overrides the protocol's fixed settings. A single one needs no selection.
        search: Proposes candidates in rounds, in place of the grid.
    """

    data: str
    model: str
    methods: str
    grid: tuple[Mapping[str, Any], ...] = ({},)
    search: Search | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.grid:
            raise ConfigError(
                f"Case {self.data} {self.methods}: the grid is empty; give at least one candidate."
            )


@dataclass(frozen=True, kw_only=True)
class SelectThenTest:
    """The protocol of a benchmark.

    Attributes:
        name: Stands in every result.
        settings: The same for all trials, for instance epochs and batch size.
        select_seed: Seed of the trials that choose.
        select_split: What they train on; the validation split must not be part of it.
        seeds: Seeds of the final trials.
        final_split: What those train on, validation split included; they use the last epoch.
        refit: Whether the final trials train on the validation images too. If not, both stages may train on the same
            images, and the final trials may choose their epoch by the validation split.
        metric: Validation metric that decides.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    select_seed: int = 0
    select_split: str = "train"
    seeds: tuple[int, ...] = (0, 1, 2)
    final_split: str = "train800val200"
    refit: bool = True
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"SelectThenTest: needs one or more different seeds, got {self.seeds}.")
        if self.refit and self.select_split == self.final_split:
            raise ConfigError(
                f"SelectThenTest: both stages train on '{self.select_split}'; "
                "the first needs a validation split."
            )

    def trial(
        self,
        case: Case,
        settings: Mapping[str, Any],
        stage: Stage,
        seed: int,
        *,
        methods: str | None = None,
    ) -> Trial:
        """The trial of a case under this protocol.

        Args:
            case: The line of the benchmark.
            settings: The candidate's own settings.
            stage: `select` or `final`.
            seed: Seed of the trial.
            methods: The methods with the candidate's settings; None: as the case spells them.
        """
        return Trial(
            data=case.data,
            model=case.model,
            methods=methods or case.methods,
            settings={**self.settings, **settings},
            seed=seed,
            protocol=self.name,
            stage=stage,
            train_split=self.select_split if stage == "select" else self.final_split,
        )


class OnRound(TypingProtocol):
    """A function that is told what a search has tried so far."""

    def __call__(self, tried: Sequence[tuple[Case, Sequence[Tried]]], /) -> None:
        """Take note of it.

        Args:
            tried: The cases that search, and what was tried for each.
        """


@dataclass(frozen=True)
class CaseResult:
    """What the protocol found for one case.

    Attributes:
        case: The line of the benchmark.
        chosen: The settings that won, fixed ones included; empty if all candidates failed.
        selection: Outcomes of the trials that chose, in the order of the grid or search; empty if there was no choice.
        final: Outcomes of the final trials, in the order of the seeds; empty if all candidates failed.
    """

    case: Case
    chosen: Mapping[str, Any]
    selection: tuple[TrialOutcome, ...]
    final: tuple[TrialOutcome, ...]

    @property
    def methods(self) -> str:
        """The methods with the settings that won; where nothing won, as the case spells them."""
        return self.final[0].trial.methods if self.final else self.case.methods


def run_protocol(
    runner: TrialRunner,
    protocol: SelectThenTest,
    cases: Sequence[Case],
    *,
    retry_failed: bool = False,
    keep_failed: bool = False,
    wait: bool = True,
    on_round: OnRound | None = None,
) -> list[CaseResult]:
    """Choose settings for every case, then test each choice with every seed.

    May be killed at any moment and started again, and started several times at once over one folder:
    finished trials are read, others are run, and every process returns the same.

    A candidate that fails (it may diverge) is out of the choice and stays on record. Failed final trials
    are returned as such.

    Args:
        runner: Runs the trials, and seals the test split for those that choose.
        protocol: Splits, seeds and fixed settings.
        cases: The lines of the benchmark.
        retry_failed: Try failed trials again.
        keep_failed: Return a case all of whose candidates failed without final trials, in place of an error.
        wait: Whether to wait for trials that other processes run.
        on_round: Is told after every round of a search.

    Raises:
        RunError: If all candidates of a case failed, unless they are to be kept.
        StillRunning: If all that can be run now is being run by others, and `wait` is off.
    """
    finish = functools.partial(runner.finish, retry_failed=retry_failed, wait=wait)
    selections = _select(finish, protocol, cases, on_round)
    chosen: list[Trial | None] = []
    for case, selection in zip(cases, selections, strict=True):
        if not selection:
            chosen.append(protocol.trial(case, case.grid[0], "select", protocol.select_seed))
        elif keep_failed and all(outcome.result is None for outcome in selection):
            chosen.append(None)
        else:
            chosen.append(_choose(case, selection, protocol))

    finals = [
        []
        if best is None
        else [
            protocol.trial(case, best.settings, "final", seed, methods=best.methods)
            for seed in protocol.seeds
        ]
        for case, best in zip(cases, chosen, strict=True)
    ]
    outcomes = finish([trial for trials in finals for trial in trials])
    found = {outcome.trial: outcome for outcome in outcomes}
    return [
        CaseResult(
            case,
            trials[0].settings if trials else {},
            selection,
            tuple(found[trial] for trial in trials),
        )
        for case, selection, trials in zip(cases, selections, finals, strict=True)
    ]


def _select(
    finish: Callable[[list[Trial]], list[TrialOutcome]],
    protocol: SelectThenTest,
    cases: Sequence[Case],
    on_round: OnRound | None,
) -> list[tuple[TrialOutcome, ...]]:
    """The trials that choose, for each case in the order of its proposals."""
    ended: list[list[tuple[Candidate, TrialOutcome]]] = [[] for _ in cases]
    while True:
        tried = [[_tried(candidate, outcome) for candidate, outcome in pairs] for pairs in ended]
        searching = [(case, past) for case, past in zip(cases, tried, strict=True) if case.search and past]
        if on_round is not None and searching:
            on_round(searching)
        proposed = [
            [
                (
                    candidate,
                    protocol.trial(
                        case, candidate.settings, "select", protocol.select_seed, methods=candidate.methods
                    ),
                )
                for candidate in (case.search or Grid(case.grid)).propose(tried[place])
            ]
            for place, case in enumerate(cases)
        ]
        # All cases at once: with one at a time, several processes would wait for each other after every case.
        trials = [trial for pairs in proposed for _, trial in pairs]
        if not trials:
            return [tuple(outcome for _, outcome in pairs) for pairs in ended]
        found = {outcome.trial: outcome for outcome in finish(trials)}
        for pairs, new in zip(ended, proposed, strict=True):
            pairs += [(candidate, found[trial]) for candidate, trial in new]


def _tried(candidate: Candidate, outcome: TrialOutcome) -> Tried:
    validation = None if outcome.result is None else ValidationResult.of(outcome)
    return Tried(candidate, outcome.trial.id, validation)


def _choose(case: Case, selection: Sequence[TrialOutcome], protocol: SelectThenTest) -> Trial:
    finished = [ValidationResult.of(outcome) for outcome in selection if outcome.result is not None]
    if not finished:
        first = selection[0]
        message = first.error["message"] if first.error else ""
        raise RunError(
            f"All {len(selection)} candidates of {case.methods} on {case.data} failed; the first: {message} "
            f"(see '{first.path}')."
        )
    return select(finished, metric=protocol.metric).trial

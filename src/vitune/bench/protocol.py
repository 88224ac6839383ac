"""The honest protocol: choose on the validation split with one seed, test the choice once with several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """

    data: str
    model: str
    methods: str
    grid: tuple[Mapping[str, Any], ...] = ({},)

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

    def trial(self, case: Case, settings: Mapping[str, Any], stage: Stage, seed: int) -> Trial:
        """The trial of a case under this protocol.

        Args:
            case: The line of the benchmark.
            settings: The candidate's own settings.
            stage: `select` or `final`.
            seed: Seed of the trial.
        """
        return Trial(
            data=case.data,
            model=case.model,
            methods=case.methods,
            settings={**self.settings, **settings},
            seed=seed,
            protocol=self.name,
            stage=stage,
            train_split=self.select_split if stage == "select" else self.final_split,
        )


@dataclass(frozen=True)
class CaseResult:
    """What the protocol found for one case.

    Attributes:
        case: The line of the benchmark.
        chosen: The settings that won, fixed ones included; empty if all candidates failed.
        selection: Outcomes of the trials that chose, in the order of the grid; empty if there was no choice.
        final: Outcomes of the final trials, in the order of the seeds; empty if all candidates failed.
    """

    case: Case
    chosen: Mapping[str, Any]
    selection: tuple[TrialOutcome, ...]
    final: tuple[TrialOutcome, ...]


def run_protocol(
    runner: TrialRunner,
    protocol: SelectThenTest,
    cases: Sequence[Case],
    *,
    retry_failed: bool = False,
    keep_failed: bool = False,
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

    Raises:
        RunError: If all candidates of a case failed, unless they are to be kept.
    """
    choosing = {
        position: [protocol.trial(case, settings, "select", protocol.select_seed) for settings in case.grid]
        for position, case in enumerate(cases)
        if len(case.grid) > 1
    }
    # All cases at once: with one at a time, several processes would wait for each other after every case.
    outcomes = runner.finish([t for trials in choosing.values() for t in trials], retry_failed=retry_failed)
    found = {outcome.trial: outcome for outcome in outcomes}

    selections: list[tuple[TrialOutcome, ...]] = []
    chosen: list[Mapping[str, Any] | None] = []
    for position, case in enumerate(cases):
        selection = tuple(found[trial] for trial in choosing.get(position, []))
        selections.append(selection)
        if keep_failed and selection and all(outcome.result is None for outcome in selection):
            chosen.append(None)
        else:
            chosen.append(_choose(case, selection, protocol) if selection else case.grid[0])

    finals = [
        [] if settings is None else [protocol.trial(case, settings, "final", seed) for seed in protocol.seeds]
        for case, settings in zip(cases, chosen, strict=True)
    ]
    outcomes = runner.finish([t for trials in finals for t in trials], retry_failed=retry_failed)
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


def _choose(case: Case, selection: Sequence[TrialOutcome], protocol: SelectThenTest) -> Mapping[str, Any]:
    finished = [ValidationResult.of(outcome) for outcome in selection if outcome.result is not None]
    if not finished:
        first = selection[0]
        message = first.error["message"] if first.error else ""
        raise RunError(
            f"All {len(selection)} candidates of {case.methods} on {case.data} failed; the first: {message} "
            f"(see '{first.path}')."
        )
    return select(finished, metric=protocol.metric).trial.settings

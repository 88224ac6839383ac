"""Comparing methods on one data set: same splits, same number of trials, settings chosen on validation images only.

Every method gets the same candidates, multiples of its own default learning rate, and the same seeds. Candidates are
tried with the test split sealed; each choice is trained with every seed, and each of these runs opens the test split
once, at its end. A comparison is a folder: trials are named by all that decides them, so that the same command goes on
where it was killed, may run in several processes at once, and runs what is new where methods or seeds were added.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune._extras import require
from vitune.backbones import BUILT_IN, read_card
from vitune.bench.compare_request import FACTORS, OF_EACH_TRIAL, CompareRequest
from vitune.bench.engines import make_runner
from vitune.bench.optuna_search import JOURNAL_FILE, OptunaSearch, write_journal
from vitune.bench.protocol import Case, CaseResult, SelectThenTest, run_protocol
from vitune.bench.ray_engine import connected
from vitune.bench.summary import MethodSummary, summarise
from vitune.bench.train_trial import OnTrialEvent, TrainTrial
from vitune.bench.trials import TrialOutcome
from vitune.data import Source, open_source
from vitune.data.vtab import LISTS
from vitune.errors import ConfigError, DataError, RunError
from vitune.methods import parse
from vitune.tasks.request import DataSettings, ModelSettings
from vitune.training.advice import learning_rate
from vitune.training.batches import check_batch_size
from vitune.training.config import TrainConfig

TRIALS = "trials"


@dataclass(frozen=True)
class Plan:
    """What a comparison will run.

    Attributes:
        request: What was asked for, methods in their canonical spelling.
        protocol: Splits, seeds and shared settings.
        cases: One per method, with its candidates.
        data: How the data were found and split.
        model: Name of the backbone.
        trials: How many trials there are.
    """

    request: CompareRequest
    protocol: SelectThenTest
    cases: tuple[Case, ...]
    data: dict[str, Any]
    model: str
    trials: int


@dataclass(frozen=True)
class CompareResult:
    """What a comparison found.

    Attributes:
        plan: What was run.
        methods: The methods in the order they were asked for.
    """

    plan: Plan
    methods: tuple[MethodSummary, ...]

    @property
    def cases(self) -> tuple[CaseResult, ...]:
        """What the protocol found for each method."""
        return tuple(method.result for method in self.methods)


def make_plan(request: CompareRequest) -> Plan:
    """Find out what is to be run; opens the data, but not their test split, and writes nothing.

    Args:
        request: What is to be compared.

    Raises:
        DataError: If the data cannot be used, or lack a validation or test split.
        ConfigError: If a batch is larger than the training images, or an extra that is needed is not installed.
    """
    if request.engine == "ray":
        connected()  # what is not there is said before anything is done
    source = open_source(request.data.path, **request.data.opening())
    _check_splits(source, request)
    found = source.describe()
    training = TrainConfig.from_dict(request.training)
    check_batch_size(training.batch_size, found["sizes"]["train"])
    is_vtab = source.kind == "vtab" and request.data.shots is None
    settings = {name: value for name, value in training.to_dict().items() if name not in OF_EACH_TRIAL}
    if is_vtab:  # the final runs have no validation images to choose their epoch by, so nor may the others
        settings["select"] = "last"
    protocol = SelectThenTest(
        name=f"{request.name}-{_weights_digest(request.model)}",
        settings={**settings, **_data_settings(request.data), **_model_settings(request.model)},
        select_split="train",
        seeds=tuple(range(request.seeds)),
        final_split="train800val200" if is_vtab else "train",
        refit=is_vtab,
    )
    model = request.model.name or BUILT_IN
    name = _data_name(request.data.path, found)
    cases = tuple(
        Case(
            data=name,
            model=model,
            methods=method,
            grid=tuple({"lr": rate} for rate in _rates(method, request)),
            search=_search(method, request, training),
        )
        for method in request.methods
    )
    choosing = sum(_candidates(case) for case in cases)
    return Plan(request, protocol, cases, found, model, choosing + len(cases) * request.seeds)


def compare(
    plan: Plan,
    *,
    on_event: OnTrialEvent = lambda trial, event: None,
    on_outcome: Callable[[TrialOutcome], None] | None = None,
    poll_seconds: float = 1.0,
    wait: bool = True,
    keep_failed: bool = False,
) -> CompareResult:
    """Run what nobody has run yet of a comparison, and put the results together.

    Args:
        plan: From `make_plan`.
        on_event: Is told what happens in the trials that this process runs.
        on_outcome: Is told of every trial, as soon as it is seen to have ended, whoever ran it.
        poll_seconds: How often to look whether other processes have finished what this one waits for.
        wait: Whether to wait for them at all.
        keep_failed: Return a comparison in which every method failed, in place of an error.

    Raises:
        RunError: If the folder is taken by something else, or every trial of every method failed and is not kept.
        StillRunning: If all that can be run now is being run by other processes, and `wait` is off.
        KeyboardInterrupt: If Ctrl-C ended it; the same command goes on.
    """
    request = plan.request
    check_folder(request.out)
    trials = TrainTrial(
        {plan.cases[0].data: request.data.path},
        workers=request.workers,
        weights=request.model.weights,
        on_event=on_event,
    )
    root = request.out / TRIALS
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder '{request.out}' cannot be made: {error.strerror}; choose another --out."
        ) from None
    runner = make_runner(
        request, root, trials, on_event=on_event, on_outcome=on_outcome, poll_seconds=poll_seconds
    )
    results = run_protocol(
        runner,
        plan.protocol,
        plan.cases,
        retry_failed=request.retry_failed,
        keep_failed=True,
        wait=wait,
        on_round=lambda tried: write_journal(request.out / JOURNAL_FILE, tried),
    )
    assert request.baseline is not None  # settled when the request was made
    summaries = summarise(results, request.baseline)
    if not keep_failed and all(summary.accuracy is None for summary in summaries):
        first = next(o for result in results for o in (*result.selection, *result.final) if o.error)
        message = (first.error or {}).get("message", "")
        raise RunError(
            f"every method failed; the first said: {message} (see '{first.path}'); "
            "when that is mended, give --retry-failed."
        )
    return CompareResult(plan, summaries)


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something other than a comparison.

    Args:
        out: Folder of a comparison, new or begun.

    Raises:
        RunError: If it is a file, or holds other things.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"the output '{out}' is a file; choose another folder with --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / TRIALS).is_dir():
        raise RunError(
            f"the output folder '{out}' holds something else than a comparison; choose another with --out."
        )


def _check_splits(source: Source, request: CompareRequest) -> None:
    path, found = request.data.path, source.describe()["sizes"]
    if not source.has_test:
        raise DataError(
            f"'{path}' has no test split, and a comparison needs one; its splits are {', '.join(found)}."
        )
    if "val" not in found:
        raise DataError(
            f"'{path}' has no validation split to choose settings on; give it one, or a val_fraction above 0."
        )
    if source.kind == "vtab" and not (path / LISTS["train800val200"]["train"]).is_file():
        raise DataError(
            f"'{path}' lacks {LISTS['train800val200']['train']}, on which the final runs train; add it."
        )


def _rates(method: str, request: CompareRequest) -> tuple[float, ...]:
    if request.rates is not None:
        return request.rates[method]
    return rates_around_default(method, "none" if request.optuna_trials() else request.search)


def _search(method: str, request: CompareRequest, training: TrainConfig) -> OptunaSearch | None:
    count = request.optuna_trials()
    if request.rates is not None or count is None:
        return None
    require("optuna", "optuna", "a search by Optuna")
    fixed = request.given[method] | ({"weight_decay"} & request.training.keys())
    return OptunaSearch(method, count, frozenset(fixed), training.weight_decay)


def _candidates(case: Case) -> int:
    """How many trials the choice for a case takes."""
    if isinstance(case.search, OptunaSearch):
        return case.search.trials
    return len(case.grid) if len(case.grid) > 1 else 0


def rates_around_default(method: str, search: str) -> tuple[float, ...]:
    """The learning rates that a search tries.

    Args:
        method: The methods as text.
        search: Which search.
    """
    default = learning_rate(TrainConfig(), parse(method))
    # Rounded, since a third of a rate has no end and the name of a trial is made of its digits.
    return tuple(float(f"{default * factor:.3g}") for factor in FACTORS[search])


def _data_name(path: Path, found: Mapping[str, Any]) -> str:
    """The data by their own name and what they list, so that other images give other trials."""
    listed = {key: found[key] for key in ("class_names", "sizes", "digests")}
    digest = hashlib.blake2b(
        json.dumps(listed, sort_keys=True).encode(errors="surrogateescape"), digest_size=4
    )
    words = re.sub(r"[^\w.]+", "_", path.resolve().stem) or "data"
    return f"{words}-{digest.hexdigest()}"


def _weights_digest(model: ModelSettings) -> str:
    """Names the weights, which are part of what is tried."""
    if model.weights is not None:
        if not model.weights.is_file():
            raise ConfigError(f"there is no weight file '{model.weights}'; check --weights.")
        with model.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:8]
    return read_card().sha256[:8] if model.name in (None, BUILT_IN) else "pretrained"


def _data_settings(data: DataSettings) -> dict[str, Any]:
    return _changed(data, DataSettings(path=data.path), ("path", "train_split"))


def _model_settings(model: ModelSettings) -> dict[str, Any]:
    return _changed(model, ModelSettings(), ("name", "weights"))


def _changed(settings: Any, default: Any, but: tuple[str, ...]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(settings) if field.name not in but]
    pairs = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in pairs.items() if value != getattr(default, name)}

"""Settings chosen by Optuna: a few candidates at a time, each round knowing what the earlier ones gave.

The trials of the comparison are the memory of the search. A round is proposed by a study that is made anew from them,
with a sampler seeded by method and round: so a search that was killed goes on where it was, and several processes over
one folder propose the same. What Optuna itself can read is written beside the trials, whole after every round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitune._extras import require
from vitune.bench.protocol import Case
from vitune.bench.search import Candidate, Tried
from vitune.durable import replace_file
from vitune.errors import ConfigError
from vitune.methods import Method, method_text, parse
from vitune.training.advice import learning_rate
from vitune.training.config import TrainConfig

JOURNAL_FILE = "optuna.journal"
# Candidates of a round: tried at the same time, by several processes if there are some.
ROUND = 4
# Ranges around the method's default learning rate, and of the decay of AdamW.
LR_FACTOR = 10.0
WEIGHT_DECAY = (1e-6, 1e-1)


@dataclass(frozen=True)
class OptunaSearch:
    """The search for one method: learning rate, weight decay, and what the method itself declares.

    The first candidate is the method's defaults, the others of the first round are drawn at random, and those of later
    rounds proposed by a tree-structured Parzen estimator (Bergstra et al. 2011). More candidates extend a search.

    Attributes:
        methods: The methods as the comparison names them.
        trials: How many candidates there are.
        fixed: Dimensions that the user has set, which are not searched: `weight_decay`, `lora.rank`.
        weight_decay: The weight decay of the first candidate.
    """

    methods: str
    trials: int
    fixed: frozenset[str] = frozenset()
    weight_decay: float = field(default_factory=lambda: TrainConfig().weight_decay)

    def propose(self, tried: Sequence[Tried]) -> Sequence[Candidate]:
        """The next round, of four candidates or as many as are left."""
        count = min(ROUND, self.trials - len(tried))
        if count <= 0:
            return ()
        optuna = require("optuna", "optuna", "a search by Optuna")
        with _quiet(optuna):
            sampler = optuna.samplers.TPESampler(
                seed=_seed(self.methods, len(tried)),
                n_startup_trials=ROUND,
                multivariate=True,
                constant_liar=True,
            )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.add_trials([_frozen(optuna, self, each) for each in tried])
            if not tried:
                study.enqueue_trial(self.first_point())
            candidates: list[Candidate] = []
            known = [dict(each.candidate.point) for each in tried]
            for _ in range(100 * count):  # a space so small that it is used up gives fewer
                point = _rounded(study.ask(_distributions(optuna, self)).params)
                if point not in known:
                    known.append(point)
                    candidates.append(self._candidate(point))
                if len(candidates) == count:
                    break
        return tuple(candidates)

    def space(self) -> dict[str, tuple[float, float] | tuple[Any, ...]]:
        """The dimensions: two ends of a range on a logarithmic scale, or the choices."""
        default = learning_rate(TrainConfig(), parse(self.methods))
        found: dict[str, Any] = {"lr": (_short(default / LR_FACTOR), _short(default * LR_FACTOR))}
        found["weight_decay"] = WEIGHT_DECAY
        for method in parse(self.methods):
            for setting, choices in method.search_space.items():
                own = getattr(method, setting)
                fit = [choice for choice in choices if _takes(method, setting, choice)]
                found[f"{method.name}.{setting}"] = (*fit, *([] if own in fit else [own]))
        return {name: values for name, values in found.items() if name not in self.fixed}

    def first_point(self) -> dict[str, Any]:
        """The defaults, as a point of the space."""
        methods = parse(self.methods)
        own = {
            f"{method.name}.{name}": getattr(method, name)
            for method in methods
            for name in method.search_space
        }
        decay = min(max(self.weight_decay, WEIGHT_DECAY[0]), WEIGHT_DECAY[1])
        values = {"lr": _short(learning_rate(TrainConfig(), methods)), "weight_decay": decay, **own}
        return {name: values[name] for name in self.space()}

    def _candidate(self, point: Mapping[str, Any]) -> Candidate:
        settings = {name: value for name, value in point.items() if "." not in name}
        methods = ",".join(method_text(_with_point(method, point)) for method in parse(self.methods))
        return Candidate(settings, methods, dict(point))


def write_journal(path: Path, tried: Sequence[tuple[Case, Sequence[Tried]]]) -> None:
    """Write what was tried as Optuna's journal, a study for each method, replaced in one step.

    `optuna.load_study(study_name="ssf", storage=JournalStorage(JournalFileBackend(path)))` reads it, and so does
    optuna-dashboard. It is a copy: the trials themselves are what a search goes on from.

    Args:
        path: The file.
        tried: Cases and what was tried for each.
    """
    optuna = require("optuna", "optuna", "a search by Optuna")
    journal = require("optuna.storages.journal", "optuna", "a search by Optuna")

    def write(temporary: Path) -> None:
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(temporary)))
        for case, past in tried:
            if isinstance(case.search, OptunaSearch):
                study = optuna.create_study(study_name=case.methods, storage=storage, direction="maximize")
                study.add_trials([_frozen(optuna, case.search, each) for each in past])

    with _quiet(optuna):
        replace_file(path, write)


def _distributions(optuna: Any, search: OptunaSearch) -> dict[str, Any]:
    made = {}
    for name, values in search.space().items():
        if "." in name:
            made[name] = optuna.distributions.CategoricalDistribution(values)
        else:
            made[name] = optuna.distributions.FloatDistribution(*values, log=True)
    return made


def _frozen(optuna: Any, search: OptunaSearch, tried: Tried) -> Any:
    state = optuna.trial.TrialState
    return optuna.trial.create_trial(
        params=dict(tried.candidate.point),
        distributions=_distributions(optuna, search),
        state=state.FAIL if tried.validation is None else state.COMPLETE,
        value=None if tried.validation is None else tried.validation.metrics["accuracy"],
        user_attrs={"trial": tried.trial, "methods": tried.candidate.methods},
    )


def _takes(method: Method, setting: str, value: Any) -> bool:
    """Whether the value goes with the method's other settings."""
    try:
        replace(method, **{setting: value})
    except ConfigError:
        return False
    return True


def _with_point(method: Method, point: Mapping[str, Any]) -> Method:
    own = {name: point[key] for name in method.search_space if (key := f"{method.name}.{name}") in point}
    return replace(method, **own) if own else method


def _rounded(point: Mapping[str, Any]) -> dict[str, Any]:
    # The name of a trial is made of the digits of its settings, and nobody quotes seventeen.
    return {name: value if "." in name else _short(value) for name, value in point.items()}


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _seed(methods: str, tried: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{methods}/{tried}".encode(), digest_size=4).digest(), "big")


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna tells of every study it makes; here that is noise."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

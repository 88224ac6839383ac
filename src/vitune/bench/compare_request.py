"""What a user asks of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vitune.errors import ConfigError, did_you_mean
from vitune.methods import given_settings, method_text, parse
from vitune.tasks.request import DataSettings, ModelSettings
from vitune.training.config import TrainConfig

Search = Literal["none", "small"]
Engine = Literal["local", "ray"]
# What each method's default learning rate is multiplied with. One factor needs no search.
FACTORS: Mapping[str, tuple[float, ...]] = {"none": (1.0,), "small": (1 / 3, 1.0, 3.0)}
# What a comparison sets itself, for every trial.
OF_EACH_TRIAL = ("seed", "workers", "lr")
OPTUNA, OPTUNA_TRIALS = "optuna", 12


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """All that decides a comparison.

    Args:
        data: The data; which images are trained on is the protocol's matter, so `train_split` stays "train".
        model: The backbone.
        methods: Methods as text, at least two that differ.
        baseline: The method that the others are compared with; None is `linear` if it is there, else the first.
        search: "small" tries a third, all and three times the default learning rate; "none" takes the default;
            "optuna:N" lets Optuna choose N candidates for each method, 12 if N is not given.
        rates: Method to learning rates, in place of the search; the same number for each.
        seeds: How many seeds the chosen settings are trained with, from 0 on.
        training: Settings of training that all methods share, by name.
        workers: Processes that read images.
        engine: Where trials run: "local", in this process, or "ray", on the Ray cluster that it can reach.
        out: Folder of the comparison.
        name: Name of the protocol; stands in every trial.
        retry_failed: Try failed trials again.
        command: The command line, as the report is to show it.
        given: Method to the settings that its text gives (`lora.rank`), which a search leaves alone.

    Raises:
        VituneError: If something is unknown, missing or out of range.
    """

    data: DataSettings
    methods: tuple[str, ...]
    out: Path
    model: ModelSettings = field(default_factory=ModelSettings)
    baseline: str | None = None
    search: str = "small"
    rates: Mapping[str, tuple[float, ...]] | None = None
    seeds: int = 3
    training: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 2
    engine: Engine = "local"
    name: str = "compare"
    retry_failed: bool = False
    command: str | None = None
    given: Mapping[str, frozenset[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        methods = tuple(canonical(text) for text in self.methods)
        object.__setattr__(self, "given", dict(zip(methods, map(given_settings, self.methods), strict=True)))
        object.__setattr__(self, "methods", methods)
        if len(methods) < 2:
            raise ConfigError(
                f"a comparison needs two methods or more, got {len(methods)}; list them, as in --methods linear,ssf."
            )
        for method in methods:
            if methods.count(method) > 1:
                raise ConfigError(f"the method '{method}' is given twice; give each once.")
        if count := self.optuna_trials():  # says what is wrong with the search
            object.__setattr__(self, "search", f"{OPTUNA}:{count}")
        check_engine(self.engine)
        if self.seeds < 1:
            raise ConfigError(f"the number of seeds is {self.seeds}; it must be at least 1.")
        if self.data.train_split != "train":
            raise ConfigError("a comparison chooses the training split itself; leave train_split out.")
        object.__setattr__(self, "baseline", self._baseline())
        for name in OF_EACH_TRIAL:
            if name in self.training:
                raise ConfigError(
                    f"{name} cannot be set here: a comparison sets it for every trial; leave it out."
                )
        TrainConfig.from_dict(self.training)  # says what is wrong with it

    def optuna_trials(self) -> int | None:
        """How many candidates Optuna chooses for each method; None where the search is another.

        Raises:
            ConfigError: If there is no such search, or the number is none.
        """
        name, colon, number = self.search.partition(":")
        if name in FACTORS and not colon:
            return None
        if name != OPTUNA:
            raise ConfigError(
                f"there is no search '{self.search}'. {did_you_mean(self.search, (*FACTORS, OPTUNA))}"
            )
        if colon and not (number.isdecimal() and int(number) >= 2):
            raise ConfigError(
                f"the search '{self.search}' does not say how many candidates; write {OPTUNA}:N with N of 2 or more."
            )
        return int(number) if colon else OPTUNA_TRIALS

    def _baseline(self) -> str:
        if self.baseline is None:
            return "linear" if "linear" in self.methods else self.methods[0]
        baseline = canonical(self.baseline)
        if baseline not in self.methods:
            raise ConfigError(
                f"the baseline '{baseline}' is not among the methods. {did_you_mean(baseline, self.methods)}"
            )
        return baseline


def check_engine(name: str) -> None:
    """Refuse what is no engine.

    Args:
        name: As the user wrote it.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in get_args(Engine):
        raise ConfigError(f"there is no engine '{name}'. {did_you_mean(name, get_args(Engine))}")


def canonical(text: str) -> str:
    """Methods in one spelling: equal methods give equal text.

    Args:
        text: Methods as the command line spells them.

    Raises:
        ConfigError: If the text is malformed or a setting is wrong.
        NothingMatchedError: If a method is unknown.
    """
    return ",".join(method_text(method) for method in parse(text))

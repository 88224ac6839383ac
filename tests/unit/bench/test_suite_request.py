from pathlib import Path
from typing import Any

import pytest

from vitune.bench.suite_request import SuiteRequest
from vitune.errors import ConfigError, NothingMatchedError, VituneError
from vitune.suites import load_suite

RATES = {
    "full": (3e-4, 1e-3, 3e-3),
    "linear": (3e-3, 1e-2, 3e-2),
    "bitfit": (5e-3, 1.5e-2, 4.5e-2),
    "lora": (1e-3, 3e-3, 1e-2),
    "ssf": (5e-3, 1.5e-2, 4.5e-2),
    "adaptformer": (3e-3, 1e-2, 3e-2),
}


def request(name: str = "local", **changes: Any) -> SuiteRequest:
    settings: dict[str, Any] = {"methods": ("linear", "ssf"), **changes}
    return SuiteRequest(suite=load_suite(name), root=Path("data"), out=Path("out"), **settings)


def comparison(found: SuiteRequest, task: str):
    chosen = next(entry for entry in found.chosen_tasks() if entry.name == task)
    return found.comparison(chosen, Path("data") / chosen.folder[0])


def test_the_local_suite_is_the_protocol_of_the_table_of_this_project():
    """Trials are named by all of this: a change would leave finished trials of the project's table behind."""
    found = comparison(request(methods=()), "caltech101")
    assert found.name == "small"
    assert found.methods == ("full", "linear", "bitfit", "lora", "ssf", "adaptformer") == tuple(RATES)
    assert found.rates == RATES
    assert found.seeds == 3
    assert dict(found.training) == {
        "epochs": 10,
        "batch_size": 64,
        "augment": "none",
        "select": "last",
        "eval_every": 10,
        "weight_decay": 1e-4,
        "warmup_epochs": 1,
        "precision": "bf16",
        "checkpoint_minutes": None,
    }
    assert found.out == Path("out/caltech101")
    assert found.data.path == Path("data/caltech101")


def test_tasks_protocol_and_the_user_change_settings_in_this_order():
    found = comparison(request(training={"epochs": 6}), "digits-4shot")
    assert (found.training["epochs"], found.training["batch_size"], found.data.shots) == (6, 32, 4)
    assert found.data.normalise == "backbone"
    vtab = comparison(request("vtab1k", protocol="unnormalised"), "dtd")
    assert (vtab.data.normalise, vtab.name, vtab.seeds) == ("none", "unnormalised", 3)
    assert vtab.rates is None
    assert vtab.search == "small"
    mine = comparison(request("vtab1k", data={"normalise": "inception"}, seeds=1, search="none"), "dtd")
    assert (mine.data.normalise, mine.seeds, mine.search) == ("inception", 1, "none")
    assert comparison(request(search="none"), "cifar10").rates is None, (
        "another search leaves the suite's rates"
    )


def test_a_method_without_rates_of_its_own_gets_as_many_around_its_default():
    found = comparison(request(methods=("linear", "lora(rank=2)")), "cifar10")
    assert found.rates is not None
    assert {len(rates) for rates in found.rates.values()} == {3}
    lora = found.rates["lora(rank=2)"]
    assert lora[2] == pytest.approx(9 * lora[0], rel=0.01)


def test_tasks_are_chosen_by_name_group_or_pattern():
    def names(*patterns: str) -> list[str]:
        return [task.name for task in request(tasks=patterns).chosen_tasks()]

    assert names("digits") == ["digits-4shot", "digits-16shot"]
    assert names("cifar10", "caltech101") == ["caltech101", "cifar10"], "in the order of the suite"
    assert len(names("pacs-*")) == 4
    assert len(names()) == 8


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        (
            {"tasks": ("cifar",)},
            NothingMatchedError,
            "the suite 'local' has no task 'cifar'. Did you mean 'cifar10'?",
        ),
        ({"protocol": "smal"}, NothingMatchedError, "has no protocol 'smal'. Did you mean 'small'?"),
        ({"methods": ("lin",)}, VituneError, "'lin'"),
        (
            {"name": "fgvc", "methods": ()},
            ConfigError,
            "the suite 'fgvc' has no methods of its own; name two or more",
        ),
    ],
)
def test_mistakes(changes: dict[str, Any], kind: type[Exception], sentence: str):
    with pytest.raises(kind) as caught:
        request(**changes)
    assert sentence in str(caught.value)


def test_mistakes_of_a_task_name_it():
    with pytest.raises(ConfigError, match=r"task 'cifar10': a comparison needs two methods or more, got 1"):
        comparison(request(methods=("linear",)), "cifar10")

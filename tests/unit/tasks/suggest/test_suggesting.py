"""Suggestions on the built-in backbone and a few small images: what fits, what does not, and the nearest that does."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from tests.cli.small_images import write_splits

from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.tasks.costing import STOCK, Subject
from vitune.tasks.request import DataSettings, ModelSettings
from vitune.tasks.suggest import Limits, Suggestion, SuggestSettings, measuring, suggest
from vitune.tasks.suggest.counting import Counted, count, smaller
from vitune.tasks.suggest.measuring import StepTimes
from vitune.tasks.suggest.time_model import Load, TimeModel
from vitune.tasks.suggest.words import how_sure

METHODS = ("full", "linear", "lora", "adaptformer")
SUBJECT = Subject(None, 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data") / "small", train=6, val=3)


def ask(
    data: Path, methods: tuple[str, ...] = METHODS, model: str | None = None, **limits: object
) -> Suggestion:
    settings = SuggestSettings(
        data=DataSettings(path=data),
        model=ModelSettings(name=model),
        methods=methods,
        limits=Limits(**limits),  # type: ignore[arg-type]
        device="cpu",
        epochs=2,
        measure_seconds=2,
    )
    return suggest(settings)


@pytest.fixture(scope="module")
def answer(data: Path) -> Suggestion:
    return ask(data, parameters="100k")


def test_what_fits_is_ranked_with_exact_costs(answer: Suggestion) -> None:
    assert {one.method for one in answer.ranked} == {"linear", "lora"}
    assert [one.rank for one in answer.ranked] == [1, 2]
    for one in answer.ranked:
        tuned = SUBJECT.tuned(one.method, STOCK, weights=False)
        assert one.costs.trained_parameters == tuned.costs().trained_parameters
        assert one.costs.step_bytes == SUBJECT.step_peak(tuned, 16)  # 18 images: the batch is 16
        assert one.costs.train_seconds > 2 * one.costs.step_seconds > 0
        assert one.costs.inference_overhead == 0


def test_what_does_not_fit_names_the_limit_and_the_nearest_that_does(answer: Suggestion) -> None:
    full, adaptformer = answer.excluded
    assert (full.method, full.nearest, full.command) == ("full", None, None)
    assert full.breaks[0].startswith("parameters: 1,")
    assert full.breaks[0].endswith(", limit 100,000")
    assert adaptformer.nearest == "adaptformer(bottleneck=32)"
    assert adaptformer.command is not None
    assert "--method 'adaptformer(bottleneck=32)'" in adaptformer.command


def test_commands_name_everything_that_is_not_a_default(answer: Suggestion, data: Path) -> None:
    command = shlex.split(answer.ranked[0].command)
    assert command[:3] == ["vitune", "train", str(data)]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options["--batch-size"] == "16"
    assert options["--epochs"] == "2"
    assert options["--device"] == "cpu"
    assert options["--memory"] == answer.ranked[0].costs.memory
    assert float(options["--lr"]) == answer.ranked[0].lr


def test_it_says_how_sure_it_is_and_can_be_written_as_json(answer: Suggestion) -> None:
    assert any("Timed, in step" in sentence for sentence in answer.sure)
    assert any("vitune compare" in sentence for sentence in answer.not_measured)
    written = json.loads(json.dumps(answer.as_dict()))
    assert written["data"]["train_images"] == 18
    # How many steps fit into the time given depends on the machine.
    timed = [one["costs"]["timed"] for one in written["ranked"]]
    assert timed == [one.costs.timed for one in answer.ranked]


def test_steps_are_as_large_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step has a cost whatever its size; what it would take per image must not be read off a step of one."""
    order = [count(SUBJECT, method, 64, None) for method in ("full", "linear")]

    def timed(subject: Subject, one: Counted, images: int, rounds: int) -> tuple[Load, list[float]]:
        return one.load, [0.5 + 0.001 * images]

    monkeypatch.setattr(measuring, "_timed", timed)
    assert [measuring._images(SUBJECT, order, budget) for budget in (1, 40, 1e9)] == [1, 64, 64]


def test_words_of_how_sure() -> None:
    times = StepTimes(TimeModel((1.0,), 0.1), {"full": 1.0, "ssf": 1.0}, 1, 0.5)
    order, _, timed, small, busy = how_sure((), times, 18, "nano")
    assert order.startswith("There is no order, since nothing fits")
    assert timed.startswith("Timed, in steps of 1 image: full, ssf (rounds within 50 %")
    assert timed.endswith("Others follow a cost model that is within 10 % of these.")
    assert small.startswith("Steps this small cost more for each image")
    assert busy.startswith("The machine was busy")
    quiet = dataclasses.replace(times, spread=0.1, images=16, model=TimeModel((1.0, 2.0), 0.0))
    *_, timed = how_sure((), quiet, 18, "nano")
    assert timed.endswith("Others follow a cost model that rests on these alone.")


@pytest.mark.slow
def test_memory_is_fitted_by_levels_and_parts_or_said_not_to_be(data: Path) -> None:
    found = ask(data, ("lora",), memory="40MB")
    (lora,) = found.ranked
    assert lora.costs.step_bytes <= 40e6
    assert lora.costs.memory != "stock" or lora.costs.accumulate > 1
    assert "--fit-memory 40MB" in lora.command
    nothing = ask(data, ("linear",), memory="1MB")
    assert nothing.ranked == ()
    assert "the least that a step holds is" in nothing.excluded[0].breaks[0]


def test_a_limit_of_time_leads_to_fewer_epochs_or_to_none(data: Path) -> None:
    found = ask(data, ("linear",), time="0.001s")
    assert found.excluded[0].breaks[0].startswith("time: ")
    assert found.excluded[0].nearest is None


def test_what_does_not_merge_is_left_out_where_inference_must_be_as_quick(data: Path) -> None:
    found = ask(data, ("lora", "adaptformer"), no_inference_overhead=True)
    assert [one.method for one in found.ranked] == ["lora"]
    assert "since it does not merge" in found.excluded[0].breaks[0]
    assert found.excluded[0].costs.inference_overhead > 0


def test_methods_that_do_not_suit_the_backbone_are_named(data: Path) -> None:
    found = ask(data, ("linear", "vpt"), model="resnet18")
    assert list(found.unsuited) == ["vpt"]
    with pytest.raises(UnsupportedBackboneError, match="no method suits resnet18"):
        ask(data, ("vpt",), model="resnet18")


def test_weights_are_not_needed(data: Path) -> None:
    settings = SuggestSettings(data=DataSettings(path=data), model=ModelSettings(weights=Path("a.pth")))
    with pytest.raises(ConfigError, match="suggest needs no weights"):
        suggest(settings)


def test_a_method_without_a_size_has_no_smaller_one() -> None:
    assert smaller("ssf", lambda text: True) is None
    assert smaller("lora", lambda text: text == "lora(rank=2)") == "lora(rank=2)"
    assert smaller("lora,bitfit", lambda text: True) is None

"""Methods that look at training images before it is known what they edit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitune
from vitune.data import Preprocessing, open_source
from vitune.errors import ConfigError
from vitune.methods import DataNeeds
from vitune.tasks.classification import resume, train
from vitune.tasks.resolving import resolve_methods
from vitune.training import Event, TrainConfig
from vitune.training.devices import make_accelerator

from .conftest import small_request


class Looker(vitune.LinearProbe):
    """Notes what it is shown."""

    name = "looker"
    needs = DataNeeds(batches=2, batch_size=5)

    @property
    def needs_data(self) -> DataNeeds:
        return self.needs

    def resolved(self, model: nn.Module, batches, *, seed: int = 0) -> vitune.LinearProbe:
        self.seen.append([(tuple(images.shape), labels.tolist()) for images, labels in batches])
        return vitune.LinearProbe()


def shown(colours: Path, needs: DataNeeds) -> list[tuple[tuple[int, ...], list[int]]]:
    samples = open_source(colours).split("train")
    assert samples is not None
    model = vitune.backbones.create("vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=32)
    looker, plain = Looker(), vitune.SSF()
    object.__setattr__(looker, "seen", [])
    object.__setattr__(looker, "needs", needs)
    config = TrainConfig(device="cpu", workers=0, seed=3)
    found = resolve_methods(
        [plain, looker],
        model,
        samples,
        Preprocessing.from_model(model),
        config,
        make_accelerator("cpu", "fp32"),
    )
    assert found[0] is plain
    assert found[1] == vitune.LinearProbe()
    return looker.seen[0]  # type: ignore[attr-defined]


def test_it_is_shown_the_first_images_of_the_data(colours: Path) -> None:
    seen = shown(colours, DataNeeds(batches=2, batch_size=5))
    assert seen == [((5, 3, 32, 32), [0] * 5), ((5, 3, 32, 32), [0] * 3 + [1] * 2)]


def test_or_images_drawn_at_random_and_all_where_there_are_few(colours: Path) -> None:
    needs = DataNeeds(batches=9, batch_size=10, shuffled=True)
    seen = shown(colours, needs)
    assert [len(labels) for _, labels in seen] == [10, 10, 4]
    labels = [label for _, batch in seen for label in batch]
    assert sorted(labels) == [0] * 8 + [1] * 8 + [2] * 8
    assert labels != sorted(labels)
    assert shown(colours, needs) == seen


def test_a_run_allocates_trains_and_is_loaded_again(colours: Path, tmp_path: Path) -> None:
    request = small_request(colours, tmp_path / "run", method="spt(budget=2000,batch_size=8,shuffled=true)")
    request = dataclasses.replace(request, training=dataclasses.replace(request.training, epochs=1))
    result = train(request).result
    assert result["method"] == "spt(budget=2000,batch_size=8,shuffled=true)"
    settings = result["methods"][0]["settings"]
    assert settings["sparse"]
    costs = result["costs"]
    # The nearest total that a threshold gives, which may be up to twice the budget.
    assert 1000 < costs["trained_parameters"] - costs["head_parameters"] < 4000
    tuned = vitune.load(tmp_path / "run")
    held = json.loads((tmp_path / "run/adapter_config.json").read_text())["methods"][0]["settings"]
    assert held == settings == tuned.methods[0].settings()
    places: dict[str, Tensor] = {name: t for name, t in tuned.state().items() if name.endswith(".index")}
    assert places
    again = small_request(colours, tmp_path / "again", method=request.method)
    assert train(dataclasses.replace(again, training=request.training)).result["methods"] == result["methods"]
    same = vitune.load(tmp_path / "again").state()
    assert all(torch.equal(same[name], tensor) for name, tensor in places.items())


@pytest.mark.parametrize("start", ["eva", "corda", "lora_ga"])
@pytest.mark.filterwarnings("ignore")  # of peft, about its own configs
def test_a_start_of_peft_looks_trains_resumes_and_is_loaded_again(
    start, colours: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    text = f"peft(r=2,init_lora_weights={start},batches=2,batch_size=8)"

    def request(name: str) -> Any:
        made = small_request(colours, tmp_path / name, method=text)
        return dataclasses.replace(
            made, training=dataclasses.replace(made.training, epochs=1, checkpoint_steps=1)
        )

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.values["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train(request("whole")).result
    assert whole["method"] == text
    settings = whole["methods"][0]["settings"]
    assert (settings["batches"], settings["batch_size"]) == (2, 8)
    assert len(settings["ranks"]) == 8
    assert whole["costs"]["trained_parameters"] > whole["costs"]["head_parameters"]
    assert train(request("stopped"), on_event=stop).status == "interrupted"
    again = resume(tmp_path / "stopped").result
    assert again["methods"] == whole["methods"]
    assert again["costs"]["trained_parameters"] == whole["costs"]["trained_parameters"]
    one, other = (vitune.load(tmp_path / name).state() for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_budget_that_cannot_be_reached_leaves_no_directory(colours: Path, tmp_path: Path) -> None:
    request = small_request(colours, tmp_path / "run", method="spt(budget=1,batch_size=8)")
    with pytest.raises(
        ConfigError, match="spt: a budget of 1 parameters cannot be reached: the nearest totals"
    ):
        train(request)
    assert not (tmp_path / "run").exists()

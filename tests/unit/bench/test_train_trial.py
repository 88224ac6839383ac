from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vitune.backbones import BUILT_IN
from vitune.bench import Case, SelectThenTest, Trial, TrialRunner, run_protocol
from vitune.bench.train_trial import TrainTrial
from vitune.errors import ConfigError
from vitune.tasks.modules import pretrain_modules
from vitune.tasks.request import DataSettings, TrainRequest
from vitune.training.config import TrainConfig

SETTINGS = {"epochs": 1, "batch_size": 4, "augment": "none", "select": "last", "checkpoint_minutes": None}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Black and white squares in VTAB-1k layout."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    names = []
    for i in range(16):
        name = f"images/{i:02}.png"
        Image.fromarray(np.full((16, 16, 3), 255 * (i % 2), np.uint8)).save(root / name)
        names.append(f"{name} {i % 2}")
    for split, part in (("train800", names[:8]), ("val200", names[8:12]), ("test", names[12:])):
        (root / f"{split}.txt").write_text("\n".join(part) + "\n")
    (root / "train800val200.txt").write_text("\n".join(names[:12]) + "\n")
    return root


def test_a_protocol_trains_selects_and_tests(lists: Path, tmp_path: Path) -> None:
    trials = TrainTrial({"squares": lists})
    runner = TrialRunner(tmp_path, trials.run, trials.open_data)
    protocol = SelectThenTest(name="tiny", settings=SETTINGS, seeds=(0,))
    case = Case(data="squares", model=BUILT_IN, methods="linear", grid=({"lr": 1e-4}, {"lr": 1e-1}))
    (result,) = run_protocol(runner, protocol, [case])
    chosen, (final,) = result.selection, result.final
    assert [outcome.result["metrics"]["test"] for outcome in chosen if outcome.result] == [None, None]
    assert final.result is not None
    assert final.result["metrics"]["val"] is None
    assert final.result["metrics"]["test"]["n"] == 4
    assert final.result["data"]["train"] == 12
    assert final.result["lr"] in (1e-4, 1e-1)
    assert final.result["costs"]["trained_parameters"] > 0
    assert json.loads(final.path.read_text())["trial"]["stage"] == "final"


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    trials = TrainTrial({"squares": tmp_path})
    trial = Trial(data="circles", model=BUILT_IN, methods="linear", protocol="tiny", stage="select")
    with pytest.raises(ConfigError, match="no data set is called 'circles'; known: squares"):
        trials.open_data(trial)


def test_trials_start_from_named_modules(lists: Path, tmp_path: Path) -> None:
    training = TrainConfig.from_dict({**SETTINGS, "lr": 1e-2, "workers": 0})
    request = TrainRequest(
        data=DataSettings(path=lists), method="lora", training=training, out=tmp_path / "run"
    )
    file = pretrain_modules(request).path
    assert file is not None
    trials = TrainTrial({"squares": lists}, modules={"squares-1": file})
    runner = TrialRunner(tmp_path / "trials", trials.run, trials.open_data)
    # So small a learning rate that what is saved is what it started from.
    settings = {**SETTINGS, "lr": 1e-12, "weight_decay": 0}

    def ups(**more: str) -> list[torch.Tensor]:
        trial = Trial(
            data="squares",
            model=BUILT_IN,
            methods="lora",
            settings={**settings, **more},
            protocol="tiny",
            stage="select",
        )
        (outcome,) = runner.finish([trial])
        assert outcome.result is not None, outcome.error
        saved = load_file(runner.folder(trial) / "work" / "run" / "adapter_model.safetensors")
        return [tensor for name, tensor in sorted(saved.items()) if name.endswith(".up")]

    theirs = load_file(file)
    expected = [tensor for name, tensor in sorted(theirs.items()) if name.endswith(".up")]
    for tensor, own in zip(ups(init_modules="squares-1"), expected, strict=True):
        torch.testing.assert_close(tensor, own, atol=1e-6, rtol=0)
    assert all(tensor.abs().max() < 1e-6 for tensor in ups())
    assert trials.portable().needed_paths() == [lists.resolve(), file.resolve()]


def test_unknown_modules_are_named(lists: Path, tmp_path: Path) -> None:
    trials = TrainTrial({"squares": lists}, modules={"squares-1": tmp_path})
    trial = Trial(
        data="squares",
        model=BUILT_IN,
        methods="lora",
        settings={**SETTINGS, "init_modules": "squares-2"},
        protocol="tiny",
        stage="select",
    )
    with pytest.raises(ConfigError, match="no modules are called 'squares-2'; known: squares-1"):
        trials.run(trial, tmp_path / "work", trials.open_data(trial))

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitune.backbones import BUILT_IN
from vitune.bench import Case, SelectThenTest, Trial, TrialRunner, run_protocol
from vitune.bench.train_trial import TrainTrial
from vitune.errors import ConfigError

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

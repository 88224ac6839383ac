from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitune.backbones import BUILT_IN, create
from vitune.data import Preprocessing
from vitune.data.imagenet import restricted_ids, wordnet_ids
from vitune.errors import AdapterError, ConfigError, DataError
from vitune.methods import LinearProbe
from vitune.randomness import seeded
from vitune.tasks.classification import DataSettings, RunResult, evaluate, train
from vitune.tuned import apply

from .conftest import COLOURS, small_request


def test_finds_what_the_run_found(run: RunResult, colours: Path) -> None:
    for split in ("val", "test"):
        found = evaluate(run.directory, colours, split=split, workers=0, device="cpu")
        expected = run.result["metrics"][split]
        assert found.evaluation.accuracy == expected["accuracy"]
        assert found.evaluation.loss == pytest.approx(expected["loss"], abs=1e-6)
        assert (found.low, found.high) == (expected["low"], expected["high"])
    assert found.class_names == tuple(COLOURS)
    assert found.evaluation.confusion(3).sum() == len(found.samples) == 12


def test_the_data_of_the_run_are_the_default(run: RunResult, colours: Path) -> None:
    found = evaluate(run.directory, workers=0, device="cpu")
    assert found.evaluation.accuracy == run.result["metrics"]["test"]["accuracy"]


def test_a_folder_of_classes_is_a_test_split(run: RunResult, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours / "test" / "red", tmp_path / "red")
    found = evaluate(run.directory, tmp_path, workers=0, batch_size=3, device="cpu")
    assert set(found.evaluation.label.tolist()) == {sorted(COLOURS).index("red")}


def test_broken_images_are_left_out_only_when_asked_and_then_named(
    run: RunResult, colours: Path, tmp_path: Path
) -> None:
    shutil.copytree(colours / "test", tmp_path / "test")
    (tmp_path / "test" / "red" / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"red/0\.png"):
        evaluate(run.directory, tmp_path, workers=0, device="cpu")
    data = DataSettings(path=tmp_path, on_bad_image="skip")
    found = evaluate(run.directory, data, workers=0, device="cpu")
    assert found.skipped == ("test/red/0.png",)
    assert found.evaluation.count == 11


def test_images_of_training_are_no_test_split(colours: Path, tmp_path: Path) -> None:
    unsplit = tmp_path / "unsplit"
    shutil.copytree(colours / "train", unsplit)
    run = train(small_request(unsplit, tmp_path / "run", method="linear"))
    with pytest.raises(DataError, match=r"has no test split, and its images were trained on; .*--split val"):
        evaluate(run.directory, unsplit, workers=0, device="cpu")
    assert evaluate(run.directory, unsplit, split="val", workers=0, device="cpu").evaluation.count > 0


def test_an_unknown_class_is_refused(run: RunResult, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours / "test", tmp_path / "test")
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "pink")
    with pytest.raises(DataError, match="pink"):
        evaluate(run.directory, tmp_path, workers=0, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1; it must be at least 0"),
    ],
)
def test_settings_out_of_range(run: RunResult, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(run.directory, **changes)


def test_an_adapter_without_a_run_needs_data_and_class_names(run: RunResult, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(run.directory / name, tmp_path)
    with pytest.raises(ConfigError, match="does not say what data it was trained on; name the data"):
        evaluate(tmp_path, device="cpu")
    config = tmp_path / "adapter_config.json"
    names = '["blue", "green", "red"]'
    text = " ".join(config.read_text().split()).replace('[ "blue", "green", "red" ]', names)
    assert names in text
    config.write_text(text.replace(names, "null"))
    with pytest.raises(AdapterError, match="holds no class names; save it with them, as train does"):
        evaluate(tmp_path, tmp_path, device="cpu")


def test_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="adapter_config"):
        evaluate(tmp_path, tmp_path, device="cpu")


@pytest.fixture(scope="session")
def of_imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose classes are ImageNet's, called by WordNet id, with a head of random numbers."""
    folder = tmp_path_factory.mktemp("imagenet")
    with seeded(0):
        tuned = apply(create(BUILT_IN, num_classes=1000), LinearProbe())
    preprocessing = Preprocessing.from_model(tuned.model).to_dict()
    tuned.save(folder, class_names=wordnet_ids(), preprocessing=preprocessing)
    return folder


def test_imagenet_r_is_tested_with_its_200_classes(
    of_imagenet: Path, class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    ids = sorted(restricted_ids("imagenet-r"))
    class_folders(tmp_path, ids)
    found = evaluate(of_imagenet, tmp_path, workers=0, device="cpu")
    assert (found.protocol, found.classes) == ("imagenet-r", 200)
    assert set(found.evaluation.predicted.tolist()) <= set(found.evaluation.label.tolist())
    assert np.isfinite(found.evaluation.losses).all()
    every = evaluate(of_imagenet, tmp_path, classes="all", workers=0, device="cpu")
    assert (every.protocol, every.classes) == ("imagenet-r", None)
    assert not set(every.evaluation.predicted.tolist()) <= set(every.evaluation.label.tolist())
    assert every.evaluation.loss > found.evaluation.loss


def test_imagenet_v2_has_numbered_folders(
    of_imagenet: Path, class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    class_folders(tmp_path, ("0", "10", "2"))
    found = evaluate(of_imagenet, tmp_path, workers=0, device="cpu")
    assert found.evaluation.label.tolist() == [0, 10, 2]
    assert (found.protocol, found.classes, found.corruption) == (None, None, None)


def test_imagenet_c_gives_errors_by_corruption(
    of_imagenet: Path, class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    for part in ("fog/1", "snow/5"):
        class_folders(tmp_path / part, wordnet_ids()[:2])
    found = evaluate(of_imagenet, tmp_path, workers=0, device="cpu")
    assert found.protocol == "imagenet-c"
    assert [part.name for part in found.parts] == ["fog/1", "snow/5"]
    assert found.corruption is not None
    assert found.corruption.mean_error == 1 - found.evaluation.accuracy
    assert found.corruption.mce is None


def test_a_domain_that_was_trained_on_is_no_test(class_folders: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    for domain in ("art", "photo", "sketch"):
        class_folders(data / domain, ("dog", "elk"), count=6)
    settings = DataSettings(path=data, test_domain="sketch", train_domains=("photo",))
    request = small_request(data, tmp_path / "run", data=settings, method="linear", final_test=True)
    result = train(request).result
    assert result["metrics"]["test"]["n"] == 12
    found = evaluate(tmp_path / "run", data, workers=0, device="cpu")
    assert found.samples.name(0).startswith("sketch/")
    assert found.evaluation.accuracy == result["metrics"]["test"]["accuracy"]
    other = evaluate(tmp_path / "run", replace(settings, test_domain="art"), workers=0, device="cpu")
    assert other.samples.name(0).startswith("art/")  # neither trained nor tested on by the run
    trained = r"the run was trained on the domain 'photo'; test on 'sketch' or another domain"
    with pytest.raises(DataError, match=trained):
        evaluate(tmp_path / "run", replace(settings, test_domain="photo"), workers=0, device="cpu")
    with pytest.raises(DataError, match=trained):
        evaluate(tmp_path / "run", data / "photo", workers=0, device="cpu")

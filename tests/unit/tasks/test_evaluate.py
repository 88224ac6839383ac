from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vitune.errors import AdapterError, ConfigError, DataError
from vitune.tasks.classification import DataSettings, RunResult, evaluate, train

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

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, FinishedRun, Run
from tests.cli.small_images import write_classes, write_vtab


def test_what_a_run_prints(finished: FinishedRun, images: Path) -> None:
    out, err = finished.outcome.out, finished.outcome.err
    assert err == ""
    assert (
        out.index("trains ")
        < out.index("memory forecast at batch 4")
        < out.index("epoch 1/2")
        < out.index("next:")
    )
    for part in ("weights", "gradients", "optimizer", "saved activations"):
        assert f"{part} " in out
    for part in ("images/s", "data wait", "ETA"):
        assert (
            part in out.splitlines()[[line.startswith("epoch 1/2") for line in out.splitlines()].index(True)]
        )
    result = json.loads((finished.directory / "result.json").read_text())
    val = result["metrics"]["val"]
    assert f"({100 * val['low']:.1f} to {100 * val['high']:.1f}), 95 % interval, 9 images" in out
    for command in (
        f"vitune evaluate runs/small-ssf {images}",
        "vitune predict runs/small-ssf IMAGE",
        "vitune merge runs/small-ssf -o FILE",
        "open runs/small-ssf/report.html",
    ):
        assert f"  {command}\n" in out


def test_files_of_a_run(finished: FinishedRun, images: Path) -> None:
    names = {path.name for path in finished.directory.iterdir()}
    assert names >= {
        "config.json",
        "split.json",
        "log.jsonl",
        "result.json",
        "report.html",
        "predictions.npz",
    }
    assert names >= {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((finished.directory / "config.json").read_text())
    assert config["command"] == shlex.join(["vitune", "train", str(images), "--method", "ssf", *QUICK])
    assert config["training"]["epochs"] == 2


def test_config_repeats_a_run_bit_for_bit(run: Run, finished: FinishedRun) -> None:
    outcome = run("train", "--config", finished.directory / "config.json", "--out", "again")
    assert outcome.code == 0, outcome.err
    tensors = "adapter_model.safetensors"
    assert (Path("again") / tensors).read_bytes() == (finished.directory / tensors).read_bytes()
    then = json.loads((finished.directory / "config.json").read_text())
    now = json.loads(Path("again/config.json").read_text())
    assert now["training"] == then["training"]
    assert now["command"].endswith("--out again")


def test_config_may_be_a_copy_elsewhere_and_the_data_may_have_moved(
    run: Run, finished: FinishedRun, images: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "settings.json"
    copy.write_text((finished.directory / "config.json").read_text())
    moved = tmp_path / "moved"
    moved.symlink_to(images)
    assert run("train", moved, "--config", copy, "--out", "again").code == 0
    assert json.loads(Path("again/config.json").read_text())["data"]["path"] == str(moved)


def test_resume_of_a_finished_run_changes_nothing(run: Run, finished: FinishedRun) -> None:
    before = {path: path.read_bytes() for path in finished.directory.iterdir() if path.is_file()}
    outcome = run("train", "--resume", finished.directory)
    assert outcome.code == 0, outcome.err
    assert "val accuracy" in outcome.out
    assert before == {path: path.read_bytes() for path in finished.directory.iterdir() if path.is_file()}


def test_settings_reach_the_run(run: Run, images: Path) -> None:
    options = (
        "--set",
        "label_smoothing=0.1",
        "--set",
        "betas=0.8+0.9",
        "--set",
        "split-seed=7",
        "--set",
        "momentum=0.5",
    )
    outcome = run("train", images, "--method", "bitfit", *QUICK, *options, "--final-test", "--out", "run")
    assert outcome.code == 0, outcome.err
    config = json.loads(Path("run/config.json").read_text())
    assert config["training"]["label_smoothing"] == 0.1
    assert config["training"]["betas"] == [0.8, 0.9]
    assert config["data"]["split_seed"] == 7
    assert config["final_test"] is True
    assert "test accuracy" in outcome.out
    assert "note: The setting momentum has no effect: adamw has betas in its place." in outcome.out


def test_recipe_with_options_over_it(run: Run, tmp_path: Path) -> None:
    data = write_vtab(tmp_path / "vtab")
    options = ("--epochs", 1, "--batch-size", 9, "--workers", 0)
    options += ("--set", "warmup_epochs=0", "--set", "cooldown_epochs=0")
    outcome = run("train", data, "--recipe", "vtab1k/ssf/caltech101", *options, "--out", "run")
    assert outcome.code == 0, outcome.err
    config = json.loads(Path("run/config.json").read_text())
    assert config["method"] == "ssf"
    assert config["data"]["train_split"] == "train800val200"
    training = config["training"]
    assert (training["lr"], training["weight_decay"], training["drop_path"]) == (1e-3, 5e-2, 0.1)
    assert (training["epochs"], training["augment"], training["select"]) == (1, "none", "last")
    assert config["data"]["normalise"] == "inception"
    preprocessing = json.loads(Path("run/adapter_config.json").read_text())["preprocessing"]
    assert (preprocessing["mean"], preprocessing["crop_mode"]) == ([0.5] * 3, "squash")
    assert "no validation images" in outcome.out
    assert "published with vit_base_patch16_224.augreg_in21k" in outcome.out


def test_folder_without_splits(run: Run, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "flat", 5)
    outcome = run("train", data, "--method", "linear", *QUICK, "--val-fraction", 0.4, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("run/split.json").read_text())["sizes"] == {"train": 9, "val": 6}


def test_debug_shows_where_an_error_arose(run: Run) -> None:
    outcome = run("train", "nowhere", "--method", "ssf", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("vitune: the data 'nowhere' do not exist")


def test_mistake_of_ours_is_not_blamed_on_the_user(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise KeyError("blocks")

    monkeypatch.setattr("vitune.tasks.train.assemble", broken)
    outcome = run("train", images, "--method", "ssf")
    assert outcome.code == 1
    assert outcome.err == (
        "vitune: unexpected KeyError: 'blocks' (a mistake of vitune, not yours; add --debug to see where, and please "
        "report it).\n"
    )


def test_refusal_of_the_system(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/secret")

    monkeypatch.setattr("vitune.tasks.train.assemble", refuse)
    outcome = run("train", images, "--method", "ssf")
    assert outcome.code == 2
    assert outcome.err == "vitune: the system refuses '/data/secret': Permission denied.\n"

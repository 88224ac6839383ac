from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import vitune
from vitune.errors import ConfigError, DataError, NothingMatchedError, RunError, TrainingError, VituneError
from vitune.tasks.classification import DataSettings, ModelSettings, RunResult, resume, train
from vitune.tasks.request import TrainRequest
from vitune.training import Event, TrainConfig, load_checkpoint

from .conftest import COLOURS, small_request


def test_leaves_a_complete_run_directory(run: RunResult) -> None:
    assert run.status == "finished"
    names = {path.name for path in run.directory.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint",
        "config.json",
        "log.jsonl",
        "predictions.npz",
        "report.html",
        "result.json",
        "split.json",
    }
    assert run.next_commands[2] == f"vitune merge {run.directory} -o FILE"


def test_the_result_says_what_was_found_and_what_it_cost(run: RunResult, colours: Path) -> None:
    result = json.loads((run.directory / "result.json").read_text())
    assert result == run.result
    assert (result["method"], result["protocol"], result["seed"]) == ("lora(rank=2)", "val: best epoch", 0)
    assert result["command"] == "vitune train colours --method lora"
    assert result["data"] == {
        "path": str(colours),
        "kind": "folder",
        "classes": 3,
        "train": 24,
        "val": 12,
        "test": 12,
    }
    for split in ("val", "test"):
        metric = result["metrics"][split]
        assert metric["n"] == 12
        assert metric["low"] < metric["accuracy"] <= metric["high"]
    costs, full = result["costs"], result["full_finetuning"]
    assert (
        costs["trained_parameters"]
        == sum(e["parameters"] for e in result["edits"]) + costs["head_parameters"]
    )
    assert costs["adapter_bytes"] == (run.directory / "adapter_model.safetensors").stat().st_size
    assert costs["saved_activation_bytes"] == result["memory_forecast_bytes"]["saved_activations"]
    for name in ("trained_parameters", "adapter_bytes", "saved_activation_bytes", "flops_per_image"):
        assert 0 < costs[name] < full[name]
    assert costs["step_seconds"] > 0
    assert costs["inference_seconds"] > 0
    assert len({edit["role"] for edit in result["edits"]}) == 2 * result["blocks"]  # q and v of each
    assert isinstance(result["environment"]["machine"], str)


def test_the_adapter_is_the_selected_model(run: RunResult, colours: Path) -> None:
    tuned = vitune.load(run.directory)
    assert tuned.class_names == tuple(COLOURS)
    checkpoint = load_checkpoint(run.directory / "checkpoint")
    assert checkpoint is not None
    for name, tensor in tuned.state().items():
        assert torch.equal(tensor, checkpoint.tensors[f"best/{name}"])


def test_the_configuration_repeats_the_run(run: RunResult, tmp_path: Path) -> None:
    values = json.loads((run.directory / "config.json").read_text())
    settings = {name: values[name] for name in values if name not in {"format", "versions", "machine"}}
    again = train(TrainRequest.from_dict(settings, out=tmp_path / "again"))
    assert again.result["metrics"] == run.result["metrics"]


def test_the_test_split_is_opened_once_and_only_when_asked(
    run: RunResult, colours: Path, tmp_path: Path
) -> None:
    assert json.loads((run.directory / "split.json").read_text())["test_openings"] == ["final"]
    predictions = np.load(run.directory / "predictions.npz")
    assert str(predictions["split"]) == "test"
    other = train(small_request(colours, tmp_path / "run"))
    assert json.loads((other.directory / "split.json").read_text())["test_openings"] == []
    assert other.result["metrics"]["test"] is None
    assert str(np.load(other.directory / "predictions.npz")["split"]) == "val"


def test_the_listener_hears_the_plan_first_and_the_end_last(colours: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(small_request(colours, tmp_path / "run", tensorboard=True), on_event=events.append)
    assert [events[0].kind, events[1].kind, events[-1].kind] == ["plan", "start", "final"]
    plan = events[0].values
    assert plan["summary"].startswith("LoRA on VisionTransformer")
    assert set(plan["memory_forecast_bytes"]) == {"weights", "gradients", "optimizer", "saved_activations"}
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    log = [json.loads(line)["event"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert (log[0], log[-1]) == ("start", "final")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "lara"}, NothingMatchedError, "no method 'lara'"),
        ({"method": "lora(rank=0)"}, ConfigError, "rank"),
        ({"method": "lora(roles=attn.qq)"}, NothingMatchedError, "no role 'attn.qq'"),
        ({"method": "linear,lora"}, VituneError, "cannot be combined"),
        ({"model": ModelSettings(name="vit_tine")}, NothingMatchedError, "There is no model 'vit_tine'"),
        ({"model": ModelSettings(name="ghostnet_050", pretrained=False)}, VituneError, "GhostNet"),
        (
            {"training": TrainConfig(batch_size=64, device="cpu")},
            ConfigError,
            "batch_size 64 is larger than the 24",
        ),
        ({"training": TrainConfig(device="cpu", precision="fp16")}, ConfigError, "fp16 needs a CUDA device"),
        ({"data": DataSettings(path=Path("nowhere"))}, DataError, "'nowhere' do not exist"),
    ],
)
def test_a_bad_request_leaves_nothing_behind(
    changes: dict[str, object], error: type[Exception], message: str, colours: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(small_request(colours, tmp_path / "new" / "run", **changes))
    assert not (tmp_path / "new").exists()


def test_a_final_test_needs_a_test_split(colours: Path, tmp_path: Path) -> None:
    request = small_request(colours / "train", tmp_path / "run", final_test=True)
    with pytest.raises(DataError, match="has no test split; train without the final test"):
        train(request)
    assert not (tmp_path / "run").exists()


def test_an_output_folder_in_use_is_refused(colours: Path, tmp_path: Path, run: RunResult) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty; choose another with --out\.$"):
        train(small_request(colours, tmp_path))
    with pytest.raises(RunError, match=f"or go on with it: vitune train --resume {run.directory}"):
        train(small_request(colours, run.directory))
    with pytest.raises(RunError, match="is a file; choose another folder with --out"):
        train(small_request(colours, tmp_path / "notes.txt"))


def test_ctrl_c_leaves_a_run_that_resume_finishes(colours: Path, tmp_path: Path, run: RunResult) -> None:
    def press(event: Event) -> None:
        if event.kind == "progress" and event.values["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    request = small_request(colours, tmp_path / "run", final_test=True)
    first = train(request, on_event=press)
    assert (first.status, first.result) == ("interrupted", {})
    assert first.next_commands == (f"vitune train --resume {tmp_path / 'run'}",)
    assert not (tmp_path / "run" / "result.json").exists()
    second = resume(tmp_path / "run")
    assert second.result["metrics"] == run.result["metrics"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert resume(tmp_path / "run").result == second.result  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_run_killed_before_its_result_is_finished_by_resume(run: RunResult, tmp_path: Path) -> None:
    copy = tmp_path / "colours"
    import shutil

    shutil.copytree(run.directory, copy)
    for name in ("result.json", "report.html", "adapter_model.safetensors"):
        (copy / name).unlink()
    again = resume(copy)
    assert again.result["metrics"] == run.result["metrics"]
    assert (copy / "report.html").is_file()
    assert (copy / "log.jsonl").read_text().count('"final"') == 1


def test_resume_needs_a_run_of_this_version_on_the_same_data(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"is no run directory: it has no config\.json; name one that train made"
    ):
        resume(tmp_path)
    config = json.loads((run.directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(
        RunError, match="has format 99 and this version of vitune reads format 1; use the version"
    ):
        resume(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"split\.json is missing: the run was stopped before it began"):
        resume(tmp_path)
    split = json.loads((run.directory / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({**split, "digests": {}}))
    with pytest.raises(RunError, match=r"The data have changed since the run in .* \(digests differ\)"):
        resume(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        resume(tmp_path)


def test_a_diverging_run_says_so(colours: Path, tmp_path: Path) -> None:
    training = TrainConfig(epochs=4, lr=1e30, batch_size=8, workers=0, device="cpu", optimizer="sgd")
    with pytest.raises(TrainingError, match=r"The loss is (nan|inf) at step \d+ with lr .*\.png"):
        train(small_request(colours, tmp_path / "run", training=training, method="full"))


def test_memory_level_and_drop_path_reach_the_model(colours: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    training = dataclasses.replace(
        small_request(colours, tmp_path).training,
        epochs=1,
        warmup_epochs=0.0,
        memory="leanest",
        drop_path=0.1,
    )
    train(small_request(colours, tmp_path / "run", training=training), on_event=events.append)
    plan = events[0].values
    without = plan["full_finetuning"]["saved_activation_bytes"]
    assert plan["memory_forecast_bytes"]["saved_activations"] < without / 4

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vitune.errors import ConfigError, DataError, NothingMatchedError, RunError, TrainingError, VituneError
from vitune.training.checkpoint import load_checkpoint
from vitune.training.events import Event
from vitune.training.pretrain import pretrain, resume_pretraining
from vitune.training.pretrain_config import PretrainConfig
from vitune.training.pretrain_model import build_model

MODEL = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
CLOCKS = {"seconds", "images_per_second", "time"}
STEPS = 6  # 3 epochs of 2 steps of 8 of 18 images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ by colour: 18 training and 6 validation images of 16 px."""
    root = tmp_path_factory.mktemp("data") / "colours"
    noise = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for channel, name in enumerate(("red", "green")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def config(images: Path, out: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "model_args": MODEL,
        "image_size": 16,
        "epochs": 3,
        "batch_size": 8,
        "lr": 1e-2,
        "warmup_epochs": 0.5,
        "ema": 0.5,
        "workers": 0,
        "device": "cpu",
        "checkpoint_minutes": 0.0,
        "log_every": 1,
    }
    return PretrainConfig(data=images, out=out, **{**values, **changes})


def at_step(step: int, act: Callable[[], None]) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.kind == "step" and event.values["step"] == step:
            act()

    return on_event


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def card(run: Path) -> dict[str, Any]:
    return json.loads((run / "card.json").read_text())


@pytest.fixture(scope="module", params=["adamw", "muon"])
def finished(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    return pretrain(config(images, out, optimizer=request.param))


def test_a_run_leaves_its_settings_log_weights_and_card(finished: Path, images: Path):
    assert PretrainConfig.from_dict(json.loads((finished / "config.json").read_text())).data == images
    events = [line["event"] for line in log(finished)]
    assert events == ["start", *["step", "step", "epoch"] * 3, "final"]
    assert [line["step"] for line in log(finished) if line["event"] == "step"] == list(range(1, STEPS + 1))
    weights = load_file(finished / "weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    facts = card(finished)
    assert facts["sha256"] == hashlib.sha256((finished / "weights.safetensors").read_bytes()).hexdigest()
    assert facts["class_names"] == ["green", "red"]
    assert facts["data"] == {"name": "colours", "train": 18, "val": 6}
    assert facts["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert [line["epoch"] for line in facts["stages"][0]["log"]] == [1, 2, 3]
    assert str(images) not in json.dumps(facts)


def test_the_accuracy_in_the_card_is_that_of_the_weight_file(finished: Path, images: Path):
    facts = card(finished)
    made = facts["architecture"]
    model = timm.create_model(made["arch"], num_classes=2, **made["model_args"])
    model.load_state_dict(load_file(finished / "weights.safetensors"))
    model.eval()
    right = []
    for label, name in enumerate(facts["class_names"]):
        for path in (images / "val" / name).iterdir():
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
            normal = (pixels - torch.tensor(facts["input"]["mean"])[:, None, None]) / torch.tensor(
                facts["input"]["std"]
            )[:, None, None]
            with torch.no_grad():
                right.append(int(model(normal[None]).argmax()) == label)
    assert facts["val_accuracy"] == sum(right) / len(right)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_ends_bit_equal(finished: Path, tmp_path: Path, step: int):
    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    settings = PretrainConfig.from_dict(json.loads((finished / "config.json").read_text()))
    run = tmp_path / "run"
    with pytest.raises(Crash):
        pretrain(PretrainConfig.from_dict({**settings.to_dict(), "out": run}), at_step(step, crash))
    assert resume_pretraining(run) == run
    assert log(run) == log(finished)
    assert (run / "weights.safetensors").read_bytes() == (finished / "weights.safetensors").read_bytes()
    ours, theirs = (load_checkpoint(folder / "checkpoint") for folder in (run, finished))
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == STEPS
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert any(name.startswith("optimizer/blocks.0") for name in ours.tensors)
    for name, tensor in ours.tensors.items():
        assert torch.equal(tensor, theirs.tensors[name]), name


def test_ctrl_c_saves_and_stops_after_the_step(images: Path, tmp_path: Path):
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            config(images, run, checkpoint_minutes=60.0),
            at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT)),
        )
    checkpoint = load_checkpoint(run / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.step == 3
    resume_pretraining(run)
    assert log(run)[-1]["event"] == "final"


def test_it_learns(images: Path, tmp_path: Path):
    settings = config(
        images, tmp_path / "run", epochs=10, mixup=0.0, cutmix=0.0, erase=0.0, jitter=0.0, label_smoothing=0.0
    )
    run = pretrain(settings)
    epochs = [line for line in log(run) if line["event"] == "epoch"]
    assert card(run)["val_accuracy"] == epochs[-1]["val_accuracy"] == 1.0
    assert epochs[-1]["train_loss"] < 0.5 * epochs[0]["train_loss"]


def test_the_callers_random_state_is_left_alone(images: Path, tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(config(images, tmp_path / "run", epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_second_stage_starts_from_the_resized_first_one(finished: Path, images: Path, tmp_path: Path):
    second = config(
        images, tmp_path / "second", model_args={**MODEL, "patch_size": 4}, init_from=finished, epochs=1
    )
    model: Any = build_model(second, 2)
    first = load_file(finished / "weights.safetensors")
    assert model.patch_embed.proj.weight.shape[-1] == 4
    assert model.pos_embed.shape[1] == 17
    own = model.state_dict()
    resized = {"patch_embed.proj.weight", "pos_embed"}
    for name in first.keys() - resized:
        assert torch.equal(own[name], first[name].float()), name
    # The class token's place has no neighbours to be interpolated from.
    assert torch.equal(own["pos_embed"][:, :1], first["pos_embed"][:, :1].float())
    # A constant image gives every patch about the same embedding, whatever the size of the patch.
    flat = torch.ones(1, 3, 16, 16)
    before = torch.nn.functional.conv2d(
        flat, first["patch_embed.proj.weight"].float(), first["patch_embed.proj.bias"].float(), stride=8
    )
    after = model.patch_embed.proj(flat)
    assert torch.cosine_similarity(after[0, :, 0, 0], before[0, :, 0, 0], dim=0) > 0.97
    assert float(after.detach().norm()) / 4 == pytest.approx(float(before.norm()) / 2, rel=0.1)
    run = pretrain(second)
    stages = card(run)["stages"]
    assert [stage["settings"]["model_args"]["patch_size"] for stage in stages] == [8, 4]
    assert "--init-from runs/run" in stages[1]["command"]


def test_a_stage_from_a_bare_file_says_which(finished: Path, images: Path, tmp_path: Path):
    file = finished / "weights.safetensors"
    run = pretrain(config(images, tmp_path / "run", init_from=file, epochs=1))
    assert card(run)["stages"][0] == {
        "weights": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_a_convolutional_network_works_too(images: Path, tmp_path: Path):
    run = pretrain(config(images, tmp_path / "run", arch="test_resnet", model_args={}, epochs=1))
    assert any(name.endswith("running_mean") for name in load_file(run / "weights.safetensors"))


def test_bf16_runs(images: Path, tmp_path: Path):
    run = pretrain(config(images, tmp_path / "run", precision="bf16", epochs=1))
    assert np.isfinite(card(run)["val_loss"])


def test_an_existing_run_is_not_overwritten(images: Path, finished: Path):
    with pytest.raises(RunError, match="is there already; give another one, or resume it with --resume"):
        pretrain(config(images, finished))


def test_a_batch_larger_than_the_data(images: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="batch_size 20 is larger than the 18 training images"):
        pretrain(config(images, tmp_path / "run", batch_size=20))


def test_an_optimizer_that_an_older_timm_lacks(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.optim.list_optimizers", lambda: ["adamw"])
    with pytest.raises(ConfigError, match=r"timm .* has no optimizer 'muon'; update timm, or choose adamw"):
        pretrain(config(images, tmp_path / "run", optimizer="muon"))


@pytest.mark.parametrize("changes", [{"arch": "qqqqqqqq"}, {"data": Path("nowhere")}, {"batch_size": 20}])
def test_a_mistake_leaves_no_run_directory(images: Path, tmp_path: Path, changes: dict[str, Any]):
    settings = {**config(images, tmp_path / "run").to_dict(), **changes}
    with pytest.raises(VituneError):
        pretrain(PretrainConfig.from_dict(settings))
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_made(images: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"run cannot be written \(Not a directory\)"):
        pretrain(config(images, tmp_path / "file" / "run"))


def test_data_without_a_validation_split(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = SimpleNamespace(split=lambda name: None, class_names=("a", "b"))
    monkeypatch.setattr("vitune.data.open_source", lambda path: source)
    with pytest.raises(DataError, match="has no train and val split; pre-training needs both"):
        pretrain(config(images, tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_with_step_and_lr(images: Path, tmp_path: Path):
    weights = load_file(pretrain(config(images, tmp_path / "first", epochs=1)) / "weights.safetensors")
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], torch.nan)
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(TrainingError, match=r"The loss is not finite by step 1, with lr 0\.01"):
        pretrain(config(images, tmp_path / "run", init_from=tmp_path / "nan.safetensors"))


def test_resume_of_something_else(tmp_path: Path):
    with pytest.raises(RunError, match=r"is not a run of vitune pretrain: config\.json cannot be read"):
        resume_pretraining(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"arch": "vit_tinny_patch16_224"}, NothingMatchedError, "Did you mean 'vit_tiny_patch16_224'"),
        (
            {"arch": "qqqqqqqq"},
            NothingMatchedError,
            "timm has no architecture 'qqqqqqqq'. `vitune list` shows",
        ),
        ({"model_args": {"pach_size": 8}}, ConfigError, "unexpected keyword argument 'pach_size'"),
        ({"init_from": Path("nowhere")}, RunError, "no weights to start from at nowhere"),
    ],
)
def test_a_model_that_cannot_be_made(
    images: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error) as caught:
        build_model(config(images, tmp_path / "run", **changes), 2)
    assert message in str(caught.value)


def test_weights_of_another_model_are_refused(finished: Path, images: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"lacks 'blocks\.2\.norm1\.weight'"):
        build_model(config(images, tmp_path / "run", model_args={**MODEL, "depth": 3}, init_from=finished), 2)

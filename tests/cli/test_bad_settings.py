"""Every way in which settings can be wrong has its own sentence; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, Refused

SSF = ("--method", "ssf", "--batch-size", "4", "--workers", "0")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("0", "The training setting lr is 0.0; it must be a finite number above 0."),
        ("-1e-3", "The training setting lr is -0.001; it must be a finite number above 0."),
        ("nan", "The training setting lr is nan; it must be a finite number above 0."),
        ("inf", "The training setting lr is inf; it must be a finite number above 0."),
    ],
)
def test_learning_rate(refused: Refused, images: Path, value: str, sentence: str) -> None:
    assert refused("train", images, *SSF, "--lr", value) == sentence


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("sff", "no method 'sff'. Did you mean 'ssf'?"),
        ("lora(rnak=4)", "lora: no setting 'rnak'. Did you mean 'rank'?"),
        ("lora(rank=four)", "lora: rank must be a whole number, not 'four'."),
        ("lora(rank=0)", "lora: rank must be at least 1, not 0."),
        ("lora(rank", "cannot read the method 'lora(rank'"),
        ("lora(rank=1,rank=2)", "lora: the setting 'rank' is given twice."),
        ("ssf,ssf", "'ssf' is given twice; once is enough."),
        ("full,lora", "'full' and 'lora' cannot be combined: full fine-tuning already trains every weight"),
        ("lora(roles=attn.k+attn.w)", "attn.w"),
    ],
)
def test_methods(refused: Refused, images: Path, method: str, sentence: str) -> None:
    assert sentence in refused("train", images, "--method", method, *QUICK)


def test_no_method(refused: Refused, images: Path) -> None:
    assert refused("train", images).startswith(
        "no method given; say what to train, for instance --method ssf"
    )


def test_unknown_model(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, *SSF, "--model", "vit_tiny_patch61_224")
    assert "vit_tiny_patch61_224" in sentence
    assert "Did you mean 'vit_tiny_patch16_224'?" in sentence


def test_unknown_weights_of_a_model(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, *SSF, "--model", "vit_tiny_patch16_224.augreg_in22k")
    assert "augreg_in21k" in sentence


def test_model_of_a_family_that_is_not_known(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, *SSF, "--model", "ghostnet_050", "--set", "pretrained=false")
    assert "no known backbone family matches GhostNet; looked for:" in sentence


def test_method_on_a_model_that_it_does_not_support(refused: Refused, images: Path) -> None:
    words = ("--model", "vit_tiny_patch16_224", "--set", "pretrained=false", "--set", "img_size=32", *QUICK)
    sentence = refused("train", images, "--method", "bi_lora(roles=patch_embed)", *words)
    assert sentence == "bi_lora: 'patch_embed' is a conv; bi_lora adapts linear layers only."


def test_weights_that_cannot_be_downloaded(
    refused: Refused, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read from the environment at import, which another test may have caused long ago.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sentence = refused("train", images, *SSF, "--model", "vit_small_patch8_224.dino")
    assert "vit_small_patch8_224.dino" in sentence
    assert "--weights FILE (.safetensors, .npz or .pth)" in sentence


def test_weight_files(refused: Refused, images: Path, tmp_path: Path) -> None:
    import torch

    assert "There is no weight file nowhere.pth" in refused("train", images, *SSF, "--weights", "nowhere.pth")
    unknown = tmp_path / "weights.h5"
    unknown.write_bytes(b"1234")
    assert "unknown kind '.h5'" in refused("train", images, *SSF, "--weights", unknown)
    damaged = tmp_path / "weights.safetensors"
    damaged.write_bytes(b"1234")
    assert "cannot be read" in refused("train", images, *SSF, "--weights", damaged)
    foreign = tmp_path / "weights.pth"
    torch.save({"layer.weight": torch.zeros(2)}, foreign)
    assert "does not fit" in refused("train", images, *SSF, "--weights", foreign)
    pickled = tmp_path / "pickled.pth"
    torch.save({"layer": Path("x")}, pickled)
    assert "cannot be read" in refused("train", images, *SSF, "--weights", pickled)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--epochs", "0"), "The training setting epochs is 0; it must be at least 1."),
        (("--batch-size", "0"), "The training setting batch_size is 0; it must be at least 1."),
        (("--seed", "-1"), "The training setting seed is -1; it must be 0 or more."),
        (("--precision", "fp8"), "The training setting precision is 'fp8', which is not known."),
        (("--device", "gpu"), "The training setting device is 'gpu', which is not known."),
        (
            ("--set", "weight_dekay=1"),
            "--set weight_dekay: there is no such setting. Did you mean 'weight_decay'?",
        ),
        (("--set", "weight_decay=much"), "--set weight_decay: it must be a number, not 'much'."),
        (
            ("--set", "weight_decay=-1"),
            "The training setting weight_decay is -1.0; it must be a finite number, 0 or",
        ),
        (("--set", "optimizer=adam"), "--set optimizer: it must be 'adamw' or 'sgd', not 'adam'."),
        (("--set", "betas=0.9"), "The training setting betas is (0.9,); it must be two numbers."),
        (("--set", "weight_decay"), "cannot read --set 'weight_decay'; write --set name=value."),
        (("--set", "lr=1", "--lr", "1"), "lr is given twice, as --lr and as --set lr; give one."),
        (("--set", "lr=-1"), "The training setting lr is -1.0; it must be a finite number above 0."),
        (("--set", "mixup=1", "--set", "mixup=2"), "--set mixup is given twice; give it once."),
        (("--set", "warmup-epochs=30"), "warmup_epochs 30 leaves nothing of 20 epochs; use less."),
        (("--recipe", "vtab1k/sff"), "no recipe 'vtab1k/sff'. Did you mean 'vtab1k/ssf'?"),
        (("--recipe", "vtab1k/ssf/pet"), "the recipe 'vtab1k/ssf' has no task 'pet'. Did you mean 'pets'?"),
        (
            ("--recipe", "vtab1k/linear"),
            "the recipe 'vtab1k/linear' needs --lr: its source uses one of 50, 25",
        ),
    ],
)
def test_settings(refused: Refused, images: Path, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused("train", images, "--method", "ssf", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("list", "metods"), "there is no list of 'metods'. Did you mean 'methods'?"),
        (
            ("list", "models", "nothing_like_it"),
            "no models match 'nothing_like_it'; 'vitune list models' shows all.",
        ),
        (("show",), "show one thing: a method or recipe by its name, or a backbone with --model NAME."),
        (("show", "ssf", "--model", "vit_tiny_patch16_224"), "show one thing:"),
        (("show", "lroa"), "no method or recipe 'lroa'. Did you mean 'lora'?"),
        (("show", "--model", "ghostnet_050"), "no known backbone family matches GhostNet"),
        (
            ("pretrain", "somewhere"),
            "pre-training needs data and a run directory: vitune pretrain DATA --out DIR.",
        ),
        (("pretrain", "x", "--out", "y", "--model-args", "depth"), "cannot read --model-args 'depth'; write"),
        (("pretrain", "x", "--out", "y", "--lr", "nan"), "The pre-training setting lr is nan; it must be"),
        (("pretrain", "x", "--resume", "y"), "so DATA cannot be given with it"),
        (("pretrain", "--resume", "y", "--lr", "1"), "so --lr cannot be given with it"),
        (("demo", "--epochs", "0"), "The training setting epochs is 0; it must be at least 1."),
    ],
)
def test_other_verbs(refused: Refused, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*words)

"""Weights in few bits from the command line: train, convert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vitune
from tests.cli.conftest import QUICK, Refused, Run
from vitune.adapters import TENSORS
from vitune.backbones import BUILT_IN


def test_bi_lora_to_a_bin_file_and_back(run: Run, images: Path) -> None:
    outcome = run("train", images, "--method", "bi-lora(rank=2)", *QUICK, "--out", "bi")
    assert outcome.code == 0, outcome.err
    tensors = load_file(Path("bi") / TENSORS)
    assert tensors.keys() == {"low_bit", "head.weight", "head.bias"}
    assert json.loads(Path("bi/result.json").read_text())["rounding"] is None
    outcome = run("convert", "bi", "model.bin")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "wrote model.bin"
    outcome = run("convert", "model.bin", "again", "--model", BUILT_IN, "--classes", 3, "--scale", 1)
    assert outcome.code == 0, outcome.err
    one, other = vitune.load("bi"), vitune.load("again")
    assert other.preprocessing is not None
    assert (other.preprocessing["mean"], other.preprocessing["std"]) == ([0.0] * 3, [1.0] * 3)
    batch = torch.randn(2, *one.anatomy.input_size)
    with torch.no_grad():
        assert torch.equal(one(batch), other(batch))
    assert run("convert", "again", "again.bin").code == 0
    assert Path("again.bin").read_bytes() == Path("model.bin").read_bytes()
    outcome = run("convert", "again", "again.bin")
    assert outcome.code == 2
    assert "the file 'again.bin' exists already" in outcome.err


def test_any_method_stored_in_few_bits(run: Run, images: Path) -> None:
    outcome = run("train", images, "--method", "lora(rank=2)", *QUICK, "--out", "lora", "--store-bits", 4)
    assert outcome.code == 0, outcome.err
    assert "rounded to 4 bits (relative error 0." in outcome.out, outcome.out
    assert "; val accuracy before " in outcome.out
    result = json.loads(Path("lora/result.json").read_text())
    assert result["rounding"]["bits"] == 4
    assert result["rounding"]["val_before"]["n"] == 9
    assert json.loads(Path("lora/config.json").read_text())["store_bits"] == 4
    assert load_file(Path("lora") / TENSORS).keys() == {"low_bit", "head.weight", "head.bias"}
    found = run("evaluate", "lora", images, "--split", "val", "--workers", 0, "--json")
    # What was reported is what the files give.
    assert json.loads(found.out)["accuracy"] == result["metrics"]["val"]["accuracy"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("convert", "one", "two"),
            "one of 'one' and 'two' must be a .bin file, and the other an adapter directory.",
        ),
        (
            ("convert", "one.bin", "two.bin"),
            "one of 'one.bin' and 'two.bin' must be a .bin file, and the other an adapter directory.",
        ),
        (
            ("convert", "one.bin", "two", "--model", BUILT_IN),
            "a .bin file does not say its backbone, classes and scale; give --model, --classes and --scale.",
        ),
        (
            ("convert", "a.bin", "b", "--model", BUILT_IN, "--classes", 2, "--scale", 1, "--method", "ssf"),
            "a .bin file holds bi_adaptformer or bi_lora, not 'ssf'.",
        ),
        (
            ("convert", "a.bin", "b", "--model", BUILT_IN, "--classes", 2, "--scale", 1),
            "cannot read 'a.bin': No such file or directory.",
        ),
        (("convert", "none", "b.bin"), "no adapter at 'none': there is no such directory."),
    ],
)
def test_convert_refuses(refused: Refused, words: tuple[object, ...], sentence: str) -> None:
    assert refused(*words) == sentence


@pytest.mark.parametrize(
    ("method", "bits", "sentence"),
    [
        ("lora", "3", "store_bits must be 1, 2, 4 or 8, not 3."),
        (
            "ssf",
            "4",
            "store_bits=4 would change nothing in 'ssf': it has no matrices outside the head; leave it out.",
        ),
    ],
)
def test_train_refuses(refused: Refused, images: Path, method: str, bits: str, sentence: str) -> None:
    assert refused("train", images, "--method", method, *QUICK, "--store-bits", bits) == sentence

"""`vitune suggest` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.conftest import Refused, Run

ASKED = ("--methods", "linear,adaptformer", "--epochs", 1, "--seconds", 1, "--device", "cpu")


def test_table_reasons_and_commands(run: Run, images: Path) -> None:
    outcome = run("suggest", images, *ASKED, "--no-inference-overhead")
    assert outcome.code == 0, outcome.err
    assert "18 training images, 3 classes; vitune_vit_nano" in outcome.out
    assert re.search(r"1\. linear: .*the linear probe itself", outcome.out)
    assert f"vitune train {images} --method linear --memory stock --lr " in outcome.out
    assert "Does not fit\nadaptformer: inference: about " in outcome.out
    assert "How sure\n" in outcome.out
    assert "Not measured\n" in outcome.out


def test_the_suggested_command_trains(run: Run, images: Path) -> None:
    answer = json.loads(run("suggest", images, *ASKED, "--json").out)
    assert {one["method"] for one in answer["ranked"]} == {"linear", "adaptformer"}
    words = answer["ranked"][0]["command"].split()
    outcome = run(*words[1:], "--workers", 0)
    assert outcome.code == 0, outcome.err


def test_mistakes_are_named(refused: Refused, images: Path) -> None:
    assert refused("suggest", images, "--fit-time", "soon").startswith(
        "fit_time is 'soon'; write a time such as"
    )
    assert refused("suggest", images, "--methods", "loar") == "no method 'loar'. Did you mean 'lora'?"
    assert "batch_size 64 is larger than the 18 training images" in refused(
        "suggest", images, "--batch-size", 64
    )

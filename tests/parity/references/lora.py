"""LoRA: its settings and the names of its tensors in the references."""

from __future__ import annotations

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden


def case(golden: Golden) -> Case:
    hyperparameters = golden.hyperparameters
    method = vitune.LoRA(
        rank=hyperparameters["dim"],
        scale=hyperparameters["scale"],
        dropout=hyperparameters.get("dropout", 0.0),
    )
    rules = [
        (rf"(blocks\.\d+\.attn)\.lora_([qkv])\.adapter_{there}\.weight", rf"\1.qkv.vitune.lora.\2.{here}")
        for there, here in (("down", "down"), ("up", "up"))
    ]
    return Case(method, substitution(*rules))

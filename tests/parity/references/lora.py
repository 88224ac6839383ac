"""LoRA: its settings and the names of its tensors in the references."""

from __future__ import annotations

import re

import vitune
from tests.parity.case import Case
from tests.parity.golden import Golden
from vitune.methods.lora import child_name

# A layer of a block to its role; as children, Python's own words have a line behind them.
LAYERS = {"attn.qkv": "attn.qkv", "attn.proj": "attn.out", "mlp.fc1": "mlp.in", "mlp.fc2": "mlp.out"}
LAYER = r"(blocks\.\d+)\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
SIDES = {"down": "down", "up": "up", "a": "down", "b": "up", "A": "down", "B": "up"}


def case(golden: Golden) -> Case:
    given = golden.hyperparameters
    rank = next(given[key] for key in ("dim", "rank", "r") if key in given)
    alpha = next((given[key] for key in ("lora_alpha", "alpha") if key in given), None)
    method = vitune.LoRA(
        rank=rank,
        scale=given.get("scale", 1.0),
        alpha=alpha,
        roles=tuple(sorted({found[0] for name in golden.group("param") if (found := _factor(name))})),
        dropout=given.get("dropout", 0.0),
    )
    return Case(method, lambda name: found[1] if (found := _factor(name)) else None)


def _factor(name: str) -> tuple[str, str] | None:
    """The role that a factor belongs to, and its name here; None: it is a weight of the backbone.

    PETL-ViT has factors for q, k and v apart, NOAH one pair for the three; the usual LoRA library has pairs on layers.
    """
    if found := re.fullmatch(r"(blocks\.\d+\.attn)\.lora_([qkv])\.adapter_(down|up)\.weight", name):
        return f"attn.{found[2]}", f"{found[1]}.qkv.vitune.lora.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"(blocks\.\d+\.attn)\.LoRA_([ab])\.weight", name):
        return "attn.qkv", f"{found[1]}.qkv.vitune.lora.qkv.{SIDES[found[2]]}"
    if found := re.fullmatch(
        r"(?:base_model\.model\.)?" + LAYER + r"\.lora_([AB])(?:\.default)?(?:\.weight)?", name
    ):
        role = LAYERS[found[2]]
        child = child_name(role)
        return role, f"{found[1]}.{found[2]}.vitune.lora.{child}.{SIDES[found[3]]}"
    return None

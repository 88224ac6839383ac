"""Methods from the `method` and `hyperparameters` metadata, and the names their tensors have in the references."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import vitune
from vitune import Method

Names = Callable[[str], str | None]


@dataclass(frozen=True)
class Case:
    """The method, and a function from a reference's name of a new tensor to ours (None: not a new tensor)."""

    method: Method
    name: Names


def none_new(name: str) -> str | None:
    return None


def substitution(*rules: tuple[str, str]) -> Names:
    """The first rule whose pattern matches the whole name renames it."""

    def rename(name: str) -> str | None:
        for pattern, replacement in rules:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return None

    return rename


def full(hyperparameters: dict[str, Any]) -> Case:
    return Case(vitune.Full(), none_new)


def linear(hyperparameters: dict[str, Any]) -> Case:
    return Case(vitune.LinearProbe(), none_new)


def bitfit(hyperparameters: dict[str, Any]) -> Case:
    return Case(vitune.BitFit(), none_new)


def lora(hyperparameters: dict[str, Any]) -> Case:
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


def adaptformer(hyperparameters: dict[str, Any]) -> Case:
    scale = hyperparameters.get("scalar", hyperparameters.get("scale"))
    method = vitune.AdaptFormer(
        bottleneck=hyperparameters.get("bottleneck", hyperparameters.get("dim")),
        placement=hyperparameters.get("option", "parallel"),
        scale="learnable" if scale == "learnable_scalar" else float(scale),
        layernorm=hyperparameters.get("layernorm", "none"),
        bias=hyperparameters["adapter_bias"],
        dropout=hyperparameters.get("dropout", 0.0),
    )
    point = "mlp_beside" if method.placement == "parallel" else "mlp_output"
    ours = rf"\1.vitune.points.{point}.adaptformer"
    norm = f"norm_{method.layernorm}"
    return Case(
        method,
        substitution(
            (r"(blocks\.\d+)\.adapter_mlp\.adapter_(down|up)\.(weight|bias)", ours + r".\2.\3"),
            (r"(blocks\.\d+)\.adaptmlp\.(down|up)_proj\.(weight|bias)", ours + r".\2.\3"),
            (r"(blocks\.\d+)\.adaptmlp\.scale", ours + ".scale"),
            (r"(blocks\.\d+)\.adaptmlp\.adapter_layer_norm\w*\.(weight|bias)", ours + rf".{norm}.\2"),
        ),
    )


def ssf(hyperparameters: dict[str, Any]) -> Case:
    pair = r"ssf_(scale|shift)_"
    ours = r".vitune.ssf."
    return Case(
        vitune.SSF(),
        substitution(
            (rf"patch_embed\.{pair}1", rf"patch_embed.proj{ours}\1"),
            (rf"patch_embed\.{pair}2", rf"patch_embed.norm{ours}\1"),
            (rf"(blocks\.\d+)\.{pair}([12])", rf"\1.norm\3{ours}\2"),
            (rf"(blocks\.\d+\.attn)\.{pair}1", rf"\1.qkv{ours}\2"),
            (rf"(blocks\.\d+\.attn)\.{pair}2", rf"\1.proj{ours}\2"),
            (rf"(blocks\.\d+\.mlp)\.{pair}([12])", rf"\1.fc\3{ours}\2"),
            (rf"{pair}1", rf"norm{ours}\1"),
        ),
    )


METHODS: dict[str, Callable[[dict[str, Any]], Case]] = {
    "full": full,
    "linear": linear,
    "bitfit": bitfit,
    "lora": lora,
    "adaptformer": adaptformer,
    "ssf": ssf,
}

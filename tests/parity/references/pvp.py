"""PVP: modules that were trained under one head compute the same, from a file, under another head."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vitune
from tests.parity.backbones import Place, build, place
from tests.parity.golden import Golden
from tests.parity.harness import ABSOLUTE, distance, fill
from vitune.adapters import load_modules, save_modules


def host(kind: str, values: dict[str, Any]) -> vitune.Method:
    """The method of a kind of module."""
    if kind in ("vpt_deep", "vpt_shallow"):
        return vitune.VPT(prompts=values["prompt_length"], mode="deep" if kind == "vpt_deep" else "shallow")
    if kind == "lora":
        return vitune.LoRA(rank=values["lora_rank"], scale=values["lora_scaling"])
    if kind == "adapter":
        relu = "gelu" not in str(values.get("adapter", "")).lower()
        return vitune.Adapter(bottleneck=values["adapter_bottleneck"], activation="relu" if relu else "gelu")
    raise ValueError(f"nothing is known about modules of kind '{kind}'")


def _plain(golden: Golden, phase: str) -> torch.nn.Module:
    """The backbone with the head of a phase."""
    classes = golden.hyperparameters[f"classes_{phase}"]
    backbone = {"num_classes": classes, "qkv_bias": True, **golden.backbone}
    model = build(backbone).eval()
    tensors, places = {}, {}
    for name, tensor in golden.group("param").items():
        if name.startswith("head_") and not name.startswith(f"head_{phase}."):
            continue
        tensors[name] = tensor
        ours = name.replace(f"head_{phase}.", "head.")
        places[name] = Place(ours) if ours != name else place(name, golden.backbone["embed_dim"])
    unfilled = fill(model, tensors, places)
    if unfilled:
        raise ValueError(f"not filled: {sorted(unfilled)}")
    return model


def _fill_modules(tuned: vitune.Tuned, kind: str, modules: dict[str, Tensor]) -> None:
    """Put the golden's tensors (one row per block) into the modules."""
    names = [name for name in tuned.state() if ".vitune." in name]
    with torch.no_grad():
        for i, block in enumerate(tuned.anatomy.blocks):
            for name in [name for name in names if name.startswith(f"{block.path}.")]:
                own = tuned.state()[name]
                key = _golden_name(kind, name)
                if i < len(modules[key]):
                    own.copy_(modules[key][i])


def _golden_name(kind: str, name: str) -> str:
    last = name.rsplit(".", 2)[1:]
    if kind == "lora":
        return f"{'A' if last[1] == 'down' else 'B'}_{last[0]}"
    return f"{last[0]}_{last[1][0]}" if kind == "adapter" else "prompts"


def transfer(golden: Golden) -> dict[str, Any]:
    """Save the modules of a model with the pre-training head, load them under the new one."""
    images = golden.tensors["input"]
    ours: dict[str, Tensor] = {}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        ours["logits/none/downstream"] = _plain(golden, "downstream")(images)
        for kind in sorted({name.split("/")[0] for name in golden.group("module")}):
            method = host(kind, golden.hyperparameters)
            first = vitune.apply(_plain(golden, "pretrain"), method)
            modules = golden.group(f"module/{kind}")
            _fill_modules(first, kind, modules)
            first.model.eval()
            ours[f"logits/{kind}/pretrain"] = first(images)
            path = save_modules(first, Path(folder) / f"{kind}.safetensors")
            second = vitune.apply(_plain(golden, "downstream"), method, seed=1)
            load_modules(second, path)
            second.model.eval()
            ours[f"logits/{kind}/downstream"] = second(images)
    compared = [name for name in golden.tensors if name in ours]
    worst = max(distance(ours[name], golden.tensors[name]) for name in compared)
    used = {"input", *(n for n in golden.tensors if n.startswith(("param/", "module/")))}
    uncompared = sorted(golden.tensors.keys() - ours.keys() - used)
    return {
        "logits_max_abs": worst,
        "loss_abs": None,
        "grad_excess": None,
        "compared": len(compared),
        "uncompared": uncompared,
        "ok": worst <= ABSOLUTE and not uncompared and len(compared) == len(ours),
    }


KINDS = {"transfer": transfer}
METHODS = ()  # a way to start methods, none itself

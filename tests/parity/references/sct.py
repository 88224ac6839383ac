"""SCT: its settings, the names of its tensors in the reference, and the choice of channels."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import build, place
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import ABSOLUTE, distance, fill
from vitune.anatomy import anatomy
from vitune.methods.sct import class_norms, visit_features
from vitune.methods.sct.sites import sites

MODES = {"sct_attn": "attn", "sct_mlp": "mlp", "sct_qkv": "qkv"}


def settings(golden: Golden, **further: Any) -> vitune.SCT:
    hyperparameters = golden.hyperparameters
    mode: Any = MODES[hyperparameters["mode"]]
    if mode != "qkv":  # which has no factor in the reference either
        further |= {name: hyperparameters[name] for name in ("scale", "scale_on") if name in hyperparameters}
    return vitune.SCT(mode=mode, channels=hyperparameters["topN"], **further)


def case(golden: Golden) -> Case:
    depths = golden.backbone.get("depths")
    if depths is not None:
        return _swin_case(golden, depths)
    attn, mlp = r"\1.vitune.points.middle.sct", r"\1.mlp.fc2.vitune.sct"
    inputs = {}
    for name in golden.group("aux"):
        found = re.fullmatch(r"channel_index_(?:([qv])_)?(\d+)", name)
        if found:
            block = f"blocks.{found[2]}"
            layer = {
                "sct_attn": f"{block}.vitune.points.middle.sct",
                "sct_mlp": f"{block}.mlp.fc2.vitune.sct",
                "sct_qkv": f"{block}.attn.qkv.vitune.sct.{found[1]}",
            }[golden.hyperparameters["mode"]]
            inputs[f"aux/{name}"] = f"{layer}.index"
    return Case(
        settings(golden),
        substitution(
            (r"(blocks\.\d+)\.sct_attn\.adapt_linear\.(weight|bias)", attn + r".\2"),
            (r"(blocks\.\d+)\.sct_mlp\.adapt_linear\.(weight|bias)", mlp + r".\2"),
            (r"(blocks\.\d+\.attn)\.([qv])_l\.(weight|bias)", r"\1.qkv.vitune.sct.\2.\3"),
        ),
        inputs,
    )


def _swin_case(golden: Golden, depths: list[int]) -> Case:
    """The blocks are those that have a module in the reference, counted through all stages."""
    inputs, blocks = {}, []
    for name in golden.group("aux"):
        found = re.fullmatch(r"channel_index_(\d+)_(\d+)", name)
        if found:
            stage, block = int(found[1]), int(found[2])
            blocks.append(sum(depths[:stage]) + block)
            layer = f"layers.{stage}.blocks.{block}.vitune.points.middle.sct"
            inputs[f"aux/{name}"] = f"{layer}.index"
    rule = (
        r"(layers\.\d+\.blocks\.\d+)\.sct_attn\.adapt_linear\.(weight|bias)",
        r"\1.vitune.points.middle.sct.\2",
    )
    return Case(settings(golden, blocks=tuple(blocks)), substitution(rule), inputs)


def selection(golden: Golden) -> dict[str, Any]:
    """The plain model, what is measured in it, and which channels come out."""
    model = build(golden.backbone).eval()
    width = golden.backbone["embed_dim"]
    params = golden.group("param")
    unfilled = fill(model, params, {name: place(name, width) for name in params})
    images, labels = golden.tensors["input"], golden.tensors["labels"]
    size = golden.hyperparameters.get("batch_size", len(images))
    batches = list(zip(images.split(size), labels.split(size), strict=True))
    method = settings(golden)
    places = [_whole(site) for site in sites(anatomy(model), method) if not site.role.endswith(".v")]

    features: dict[str, list[Tensor]] = {}

    def keep(role: str, tensor: Tensor, labels: Tensor) -> None:
        features.setdefault(role, []).append(tensor)

    visit_features(model, places, batches, keep)
    found = class_norms(model, places, batches)
    channels = vitune.methods.sct.salient_channels(model, batches, method)
    ours: dict[str, Tensor] = {}
    for site in places:
        block = re.fullmatch(r"blocks\.(\d+)\..*", site.role)[1]  # type: ignore[index]
        ours[f"aux/features_{block}"] = torch.cat(features[site.role])
        ours[f"aux/class_norm_{block}"] = found[site.role].norms
        ours[f"aux/score_{block}"] = found[site.role].score
    for role, index in channels.items():
        block, last = re.fullmatch(r"blocks\.(\d+)\..*?(\w+)", role).groups()  # type: ignore[union-attr]
        ours[f"aux/index_{f'{last}_' if method.mode == 'qkv' else ''}{block}"] = index
    with torch.no_grad():
        ours["logits"] = model(images)
        ours["loss"] = nn.functional.cross_entropy(ours["logits"], labels)
    return _verdict(golden, ours, unfilled)


def _whole(site: Any) -> Any:
    """The site with all rows of its layer: the reference measures q, k and v together."""
    return replace(site, rows=None)


def _verdict(golden: Golden, ours: dict[str, Tensor], unfilled: set[str]) -> dict[str, Any]:
    compared = [name for name in golden.tensors if name in ours]
    worst = {name: distance(ours[name], golden.tensors[name]) for name in compared}
    exact = [name for name in compared if name.startswith("aux/index_")]
    used = {"input", "labels", *(f"param/{name}" for name in golden.group("param"))}
    uncompared = sorted(golden.tensors.keys() - worst.keys() - used) + sorted(f"ours: {n}" for n in unfilled)
    # Activations and norms are as large as tens, and float32 keeps seven digits.
    allowed = {n: max(ABSOLUTE, 1e-6 * golden.tensors[n].abs().max().item()) for n in compared}
    fits = all(worst[name] <= allowed[name] for name in compared) and all(worst[n] == 0 for n in exact)
    return {
        "logits_max_abs": worst.get("logits"),
        "loss_abs": worst.get("loss"),
        "grad_excess": None,
        "compared": len(compared),
        "uncompared": uncompared,
        "ok": fits and not uncompared and bool(exact),
    }


KINDS = {"selection": selection}

"""Golden files of the plain models, in the references' names and metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.parity.plain.backbones import Backbone, drawn, pair
from tests.parity.plain.methods import Sct
from tests.parity.plain.prompts import Prompted

Parts = dict[str, Tensor]


def timm(name: str, tensor: Tensor) -> Parts:
    """As it is."""
    return {name: tensor}


def official(name: str, tensor: Tensor) -> Parts:
    """The official AdaptFormer: q, k, v apart, the MLP's layers on the block."""
    fused = re.fullmatch(r"(.*\.attn)\.qkv\.(\w+)", name)
    if fused:
        return {
            f"{fused[1]}.{part}_proj.{fused[2]}": rows
            for part, rows in zip("qkv", tensor.chunk(3), strict=True)
        }
    return {re.sub(r"\.mlp\.fc", ".fc", name): tensor}


VPT_NAMES = (
    ("cls_token", "enc.transformer.embeddings.cls_token"),
    ("pos_embed", "enc.transformer.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "enc.transformer.embeddings.patch_embeddings."),
    (r"norm\.", "enc.transformer.encoder.encoder_norm."),
    (r"blocks\.(\d+)\.norm1\.", r"enc.transformer.encoder.layer.\1.attention_norm."),
    (r"blocks\.(\d+)\.norm2\.", r"enc.transformer.encoder.layer.\1.ffn_norm."),
    (r"blocks\.(\d+)\.attn\.proj\.", r"enc.transformer.encoder.layer.\1.attn.out."),
    (r"blocks\.(\d+)\.mlp\.", r"enc.transformer.encoder.layer.\1.ffn."),
    (r"head\.", "head.last_layer."),
)


def vpt(name: str, tensor: Tensor) -> Parts:
    """The ViT of KMnP/vpt."""
    fused = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name)
    if fused:
        here = f"enc.transformer.encoder.layer.{fused[1]}.attn"
        names = ("query", "key", "value")
        return {f"{here}.{n}.{fused[2]}": rows for n, rows in zip(names, tensor.chunk(3), strict=True)}
    for pattern, new in VPT_NAMES:
        if re.match(pattern, name):
            return {re.sub(rf"^{pattern}", new, name): tensor}
    return {name: tensor}


def wrapped(name: str, tensor: Tensor) -> Parts:
    """Other backbones of KMnP/vpt: the backbone below `enc`, the head beside it."""
    if name.startswith("enc."):
        return {name: tensor}
    return {name.replace("head.", "head.last_layer.") if name.startswith("head.") else f"enc.{name}": tensor}


def peft(name: str, tensor: Tensor) -> Parts:
    """The usual LoRA library: the layers that it wraps keep their weights below `base_layer`."""
    name = re.sub(r"\.(qkv|proj|fc1|fc2)\.(weight|bias)$", r".\1.base_layer.\2", name)
    return {f"base_model.model.{name}": tensor}


NAMES = {"peft": peft, "timm": timm, "official": official, "vpt": vpt, "wrapped": wrapped}


def write(
    path: Path,
    model: Backbone,
    method: str,
    names: str = "timm",
    *,
    batch: int = 2,
    seed: int = 0,
    hyperparameters: dict[str, Any] | None = None,
    spread: float = 1.0,
) -> Path:
    """Draw a model's tensors, run it and write what a reference would have left.

    Args:
        path: The file.
        model: The model.
        method: Of the metadata.
        names: Whose names tensors have: a key of `NAMES`.
        batch: Number of images.
        seed: Of all that is drawn.
        hyperparameters: Of the metadata, where they are not the model's options.
        spread: Factor of drawn prompts.
    """
    draw(model, seed, spread)
    images, labels = data(model, batch)
    tensors = ran(model, images, labels, names)
    found = getattr(model, "aux", {}) if method in ("ssf", "sct") else {}
    if method == "sct":
        found = {name: tensor for name, tensor in found.items() if name.startswith("block")}
    further = found | getattr(model, "index", {})
    tensors |= {f"aux/{name}": tensor for name, tensor in further.items()}
    options = model.options if hyperparameters is None else hyperparameters
    return save(path, "model", method, model, options, tensors)


def draw(model: Backbone, seed: int, spread: float = 1.0) -> None:
    """Tensors of a model."""
    torch.manual_seed(seed)
    shapes = model.shapes() | model.new()
    model.tensors = {name: drawn(name, shape) for name, shape in shapes.items()}
    for name, tensor in model.tensors.items():
        if "prompt_embeddings" in name:
            tensor.mul_(spread)
        tensor.requires_grad_(model.trains(name))
    if hasattr(model, "draw"):
        model.draw()


def data(model: Backbone, batch: int) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    images = torch.randn(batch, 3, *pair(model.given["img_size"]))
    return images, torch.randint(model.given["num_classes"], (batch,))


def ran(model: Backbone, images: Tensor, labels: Tensor, names: str) -> Parts:
    """Inputs, outputs, weights and gradients in a reference's names."""
    logits = model.forward(images)
    loss = F.cross_entropy(logits, labels)
    trained = {name: t for name, t in model.tensors.items() if t.requires_grad}
    if trained:
        found = torch.autograd.grad(loss, list(trained.values()))
        trained = dict(zip(trained, found, strict=True))
    tensors: Parts = {"input": images, "labels": labels, "logits": logits, "loss": loss}
    for group, parts in (("param", model.tensors), ("grad", trained)):
        for name, tensor in parts.items():
            tensors |= {f"{group}/{new}": part for new, part in NAMES[names](name, tensor).items()}
    return tensors


def save(
    path: Path, kind: str, method: str, model: Backbone, options: dict[str, Any], tensors: Parts
) -> Path:
    """Write a golden."""
    metadata = {
        "kind": kind,
        "method": method,
        "case": path.stem,
        "backbone": json.dumps(model.given),
        "hyperparameters": json.dumps(options),
    }
    save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    return path


def write_selection(path: Path, model: Sct, *, sizes: list[int], batch: int, seed: int = 0) -> Path:
    """A choice of channels: class `y` has `sizes[y]` images, and every class norm is one over all its patches."""
    draw(model, seed)
    model.options, options = {"mode": "none"}, model.options  # the plain backbone is what is measured
    labels = torch.cat([torch.full((count,), y) for y, count in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels))]
    images = torch.randn(len(labels), 3, *pair(model.given["img_size"]))
    model.tensors = {name: model.tensors[name].detach() for name in model.shapes()}
    tensors = ran(model, images, labels, "timm")
    tensors |= {f"aux/{name}": t for name, t in _choices(model, labels, options).items()}
    options = {**options, "batch_size": batch, "classes_seen": sorted(set(labels.tolist()))}
    return save(path, "selection", "sct", model, options, tensors)


def _choices(model: Sct, labels: Tensor, options: dict[str, Any]) -> Parts:
    found: Parts = {}
    k, dim = options["topN"], model.given["embed_dim"]
    for i in range(model.given["depth"]):
        features = model.measured[f"{options['mode'].removeprefix('sct_')}.blocks.{i}"][:, 1:]
        norms = torch.stack(
            [features[labels == y].double().pow(2).sum((0, 1)).sqrt() for y in sorted(set(labels.tolist()))]
        )
        score = norms.mean(0)
        found[f"features_{i}"], found[f"class_norm_{i}"], found[f"score_{i}"] = (
            features,
            norms.float(),
            score.float(),
        )
        if options["mode"] == "sct_qkv":
            del found[f"features_{i}"]
            for part, values in (("q", score[:dim]), ("v", score[-dim:])):
                found[f"index_{part}_{i}"] = values.topk(k).indices.sort().values
        else:
            found[f"index_{i}"] = score.topk(k).indices.sort().values
    return found


def write_importance(
    path: Path, model: Prompted, names: str, *, batches: list[int], seed: int = 0, spread: float = 1.0
) -> Path:
    """Scores of tokens and segments, and what they prune."""
    draw(model, seed, spread)
    given = [data(model, size) for size in batches]
    tensors = ran(model, *given[0], names)
    aux: Parts = {}
    for i, (images, labels) in enumerate(given[1:], 1):
        aux[f"imp_input_{i}"], aux[f"imp_labels_{i}"] = images, labels
    found = {"signed": _gradients(model, given)}
    singles = [(x[None], y[None]) for images, labels in given for x, y in zip(images, labels, strict=True)]
    found["abs_sample"] = [(a.abs(), b.abs()) for a, b in _gradients(model, singles)]
    found["abs_batch"] = [(a.abs(), b.abs()) for a, b in found["signed"]]
    for i, gradients in enumerate(found["signed"]):
        for part, gradient in zip(("tokens", "segments"), gradients, strict=True):
            aux[f"mask_grad_{part}_batch_{i}"] = gradient
    o = model.options
    for kind, gradients in found.items():
        for j, (part, number, kept) in enumerate(
            (
                ("tokens", model.prompts, o["min_tokens_kept"]),
                ("segments", o["segments"], o["min_segments_kept"]),
            )
        ):
            score = torch.stack([both[j] for both in gradients]).mean(0)
            aux[f"score_{part}_{kind}"] = score
            counts = []
            for share in o["percentages"]:
                counts.append(min(int(number * share / 100), number - kept))
            counts = sorted(set(counts))
            aux[f"level_counts_{part}"] = torch.tensor(counts)
            order = score.sort(dim=-1, stable=True).indices
            masks = [torch.ones_like(score).scatter(-1, order[..., :count], 0.0) for count in counts]
            aux[f"keep_{part}_{kind}"] = torch.stack(masks)
    for part in ("tokens", "segments"):
        score = aux[f"score_{part}_signed"]
        aux[f"score_{part}_signed_norm"] = score / (score.norm(dim=-1, keepdim=True) + 1e-20)
    weights = model.tensors
    model.tensors = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in weights.items()}
    double = _gradients(model, [(images.double(), labels) for images, labels in given])
    for j, part in enumerate(("tokens", "segments")):
        aux[f"score_{part}_signed_fp64"] = torch.stack([both[j] for both in double]).mean(0).float()
    tensors |= {f"aux/{name}": t for name, t in aux.items()}
    return save(path, "importance", "e2vpt", model, {**o, "batch_sizes": batches}, tensors)


def _gradients(model: Prompted, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, ...]]:
    """Of the masks of tokens and segments, for each batch."""
    masks = [model.tensors[name] for name in model.masks()]
    return [
        torch.autograd.grad(F.cross_entropy(model.forward(images), labels), masks)
        for images, labels in batches
    ]

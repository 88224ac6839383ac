"""Bi-AdaptFormer and Bi-LoRA with what they store, and a published file."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

BOOKS = Path(__file__).parents[1] / "goldens/bi/codebooks.safetensors"


def rounded(w: Tensor, bits: int) -> Tensor:
    """The weights to compute with; gradients straight through the rounding, and through mean and spread."""
    book = load_file(BOOKS)
    mean, std = w.mean(), w.std()
    w_hat = (w - mean) / (std + 1e-5)
    steps = torch.sign(w_hat.detach()[..., None] - book[f"threshold_b{bits}"])
    q = (steps * book[f"half_step_b{bits}"]).sum(-1)
    return (q + (w_hat - w_hat.detach())) * std + mean


def code(w: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices, mean and spread."""
    w_hat = (w - w.mean()) / (w.std() + 1e-5)
    index = (w_hat[..., None] > load_file(BOOKS)[f"threshold_b{bits}"]).sum(-1)
    return index.to(torch.uint8), w.mean(), w.std()


def record(index: Tensor, mean: Tensor, std: Tensor, bits: int) -> bytes:
    """A matrix of a file. What does not fill a whole byte is left out, as the reference does."""
    per_byte, flat = 8 // bits, index.flatten().tolist()
    whole = len(flat) // per_byte * per_byte
    packed = bytearray()
    for start in range(0, whole, per_byte):
        packed.append(sum(flat[start + k] << (bits * k) for k in range(per_byte)))
    return bytes(packed) + struct.pack("<ff", mean.item(), std.item())


def decoded(index: Tensor, mean: Tensor, std: Tensor, bits: int) -> Tensor:
    """What is read back; the mean where the file has nothing."""
    levels = load_file(BOOKS)[f"code_b{bits}"]
    per_byte = 8 // bits
    found = levels[index.long()] * std + mean
    whole = index.numel() // per_byte * per_byte
    found.view(-1)[whole:] = mean
    return found


def adapters(spec: dict[str, Any], kind: str, size: int) -> dict[str, tuple[int, int]]:
    """Shapes of the new matrices in the order of a file."""
    width, found = spec["embed_dim"], {}
    for i in range(spec["depth"]):
        places = ("adapter_mlp",) if kind == "adaptformer" else ("attn.lora_q", "attn.lora_v")
        for place in places:
            found[f"blocks.{i}.{place}.adapter_down"] = (size, width)
            found[f"blocks.{i}.{place}.adapter_up"] = (width, size)
    return found


def model(
    path: Path, *, kind: str, dim: int, bits: int, scale: float, binary_head: bool, **changes: Any
) -> Path:
    """A golden of a model."""
    spec = vit.backbone(**changes)
    draw = vit.drawing(0)
    p = vit.weights(spec, draw)
    new = adapters(spec, kind, dim)
    p |= {f"{name}.weight": draw(*shape, std=0.2, mean=0.01) for name, shape in new.items()}
    few = dict.fromkeys(new, bits) if bits != 32 else {}
    if binary_head:
        del p["head.bias"]
        few["head"] = 1
    images, labels = vit.batch(spec, draw)

    def run(weight: dict[str, Tensor]) -> Tensor:
        x = vit.embedded(p, images)
        for i in range(spec["depth"]):
            at = f"blocks.{i}"
            z = vit.norm(p, f"{at}.norm1", x)
            q, k, v = vit.linear(p, f"{at}.attn.qkv", z).chunk(3, -1)
            if kind == "lora":
                low = [f"{at}.attn.lora_{one}" for one in "qv"]
                dq, dv = (z @ weight[f"{n}.adapter_down"].t() @ weight[f"{n}.adapter_up"].t() for n in low)
                q, v = q + scale * dq, v + scale * dv
            x = x + vit.linear(p, f"{at}.attn.proj", vit.attended(q, k, v, spec["num_heads"]))
            y = x + vit.mlp(p, at, vit.norm(p, f"{at}.norm2", x))
            if kind == "adaptformer":
                down, up = (weight[f"{at}.adapter_mlp.adapter_{end}"] for end in ("down", "up"))
                y = y + scale * (F.relu(x @ down.t()) @ up.t())
            x = y
        return F.linear(vit.norm(p, "norm", x)[:, 0], weight["head"], p.get("head.bias"))

    def latent(name: str) -> Tensor:
        return p[f"{name}.weight"]

    def forward() -> tuple[Tensor, Tensor]:
        every = {
            name: rounded(latent(name), few[name]) if name in few else latent(name) for name in [*new, "head"]
        }
        logits = run(every)
        return logits, F.cross_entropy(logits, labels)

    tuned = [f"{name}.weight" for name in new] + [name for name in ("head.weight", "head.bias") if name in p]
    tensors = vit.trained(p, tuned, forward) | {"input": images, "labels": labels}
    data, again = b"", {name: latent(name) for name in [*new, "head"]}
    for name in few:
        stored = code(latent(name), few[name])
        data += record(*stored, few[name])
        again[name] = decoded(*stored, few[name])
        values = {"index": stored[0], "mean": stored[1].view(1), "std": stored[2].view(1)}
        values |= {"qweight": rounded(latent(name), few[name]), "decoded": again[name]}
        tensors |= {f"aux/{key}/{name}": value for key, value in values.items()}
    if not binary_head:
        data += p["head.weight"].numpy().tobytes() + p["head.bias"].numpy().tobytes()
    tensors["aux/packed"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if bits != 32:
        tensors["aux/reloaded_logits"] = run(again)
        book = load_file(BOOKS)
        tensors |= {f"aux/{key}": book[f"{key}_b{bits}"] for key in ("code", "threshold", "half_step")}
    given = {
        "kind": kind,
        "dim": dim,
        "scale": scale,
        "bits": bits,
        "binary_head": binary_head,
        "dropout": 0.1,
    }
    given |= {"std": "unbiased (n-1)", "eps": 1e-5, "adapter_bias": False}
    return vit.write(path, tensors, p, method="bi", hyperparameters=given, backbone=spec)


def published(
    path: Path, *, kind: str, dim: int, bits: int, binary_head: bool, index: bool, raw: bool, **changes: Any
) -> Path:
    """A file of the authors, and the golden beside it.

    Args:
        path: The golden.
        kind: `adaptformer` or `lora`.
        dim: Size of the adapters.
        bits: Of their weights.
        binary_head: Whether the head has 1 bit.
        index: Whether the golden has the indices.
        raw: Whether the file is there, or its digest alone.
        changes: Of the backbone.
    """
    spec = vit.backbone(**changes)
    draw = vit.drawing(0)
    few = {name: (shape, bits) for name, shape in adapters(spec, kind, dim).items()}
    classes, width = spec["num_classes"], spec["embed_dim"]
    if binary_head:
        few["head"] = ((classes, width), 1)
    data, tensors = b"", {}
    for name, (shape, number) in few.items():
        stored = code(draw(*shape), number)
        data += record(*stored, number)
        tensors[f"{name}.weight"] = decoded(*stored, number)
        values = {"index": stored[0], "mean": stored[1].view(1), "std": stored[2].view(1)}
        tensors |= {f"aux/{key}/{name}.weight": v for key, v in values.items() if index or key != "index"}
    if not binary_head:
        tensors |= {"head.weight": draw(classes, width), "head.bias": draw(classes)}
        data += tensors["head.weight"].numpy().tobytes() + tensors["head.bias"].numpy().tobytes()
    if raw:
        path.with_suffix(".bin").write_bytes(data)
    given = {
        "kind": kind,
        "dim": dim,
        "bits": bits,
        "scale": 10.0,
        "binary_head": binary_head,
        "dataset": "none",
    }
    widths = {"name": "vit", "embed_dim": width, "depth": spec["depth"], "num_classes": classes}
    return vit.write(
        path,
        tensors,
        {},
        method="bi",
        hyperparameters=given,
        backbone=widths,
        kind="",
        case=f"published/{path.stem}",
        sha256_bin=hashlib.sha256(data).hexdigest(),
    )

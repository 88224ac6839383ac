"""A plain ViT in straight lines, random weights under the names of the references, and golden files of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

Params = dict[str, Tensor]
Draw = Callable[..., Tensor]


def drawing(seed: int) -> Draw:
    """A function from a shape to normal numbers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, std: float = 0.3, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=generator) * std + mean

    return draw


def backbone(**changes: Any) -> dict[str, Any]:
    """The metadata of a tiny ViT."""
    tiny = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
    return tiny | {"num_classes": 5, "qkv_bias": True, "norm_eps": 1e-6, "in_chans": 3} | changes


def grid(spec: Mapping[str, Any]) -> tuple[int, int]:
    """Patches down and across."""
    size = spec.get("input_hw", spec["img_size"])
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height // spec["patch_size"], width // spec["patch_size"]


def weights(spec: Mapping[str, Any], draw: Draw, *, separate_qkv: bool = False) -> Params:
    """Random weights of the plain backbone, in timm's names."""
    width, patch = spec["embed_dim"], spec["patch_size"]
    hidden = int(width * spec["mlp_ratio"])
    down, across = grid(spec)
    p = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, 1 + down * across, width),
        "patch_embed.proj.weight": draw(width, spec["in_chans"], patch, patch, std=0.05),
        "patch_embed.proj.bias": draw(width),
    }

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        p[f"{name}.weight"] = draw(outputs, inputs, std=inputs**-0.5)
        if bias:
            p[f"{name}.bias"] = draw(outputs, std=0.1)

    def norm(name: str) -> None:
        p[f"{name}.weight"], p[f"{name}.bias"] = draw(width, std=0.1, mean=1.0), draw(width, std=0.1)

    for i in range(spec["depth"]):
        norm(f"blocks.{i}.norm1")
        for name in "qkv" if separate_qkv else ("qkv",):
            linear(f"blocks.{i}.attn.{name}", width, width * len(name), spec["qkv_bias"])
        linear(f"blocks.{i}.attn.proj", width, width)
        norm(f"blocks.{i}.norm2")
        linear(f"blocks.{i}.mlp.fc1", width, hidden)
        linear(f"blocks.{i}.mlp.fc2", hidden, width)
    norm("norm")
    linear("head", width, spec["num_classes"])
    return p


def batch(spec: Mapping[str, Any], draw: Draw, size: int = 2) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    down, across = grid(spec)
    patch = spec["patch_size"]
    images = draw(size, spec["in_chans"], down * patch, across * patch, std=1.0)
    return images, torch.arange(size) % spec["num_classes"]


def linear(p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))


def norm(p: Mapping[str, Tensor], name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p.get(f"{name}.weight"), p.get(f"{name}.bias"), eps)


def embedded(p: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """(B, 1 + N, D), with positions."""
    kernel = p["patch_embed.proj.weight"]
    patches = F.conv2d(images, kernel, p["patch_embed.proj.bias"], stride=kernel.shape[-1])
    tokens = patches.flatten(2).transpose(1, 2)
    return torch.cat([p["cls_token"].expand(len(tokens), -1, -1), tokens], 1) + p["pos_embed"]


def scores(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Softmax of q k^T / sqrt(d), (B, heads, N, N)."""
    q, k = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q, k))
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(B, N, D) before the output projection."""
    return (scores(q, k, heads) @ v.unflatten(-1, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)


def attention(p: Mapping[str, Tensor], at: str, z: Tensor, heads: int) -> Tensor:
    """Of a block with a fused qkv, from the normed tokens."""
    q, k, v = linear(p, f"{at}.attn.qkv", z).chunk(3, -1)
    return linear(p, f"{at}.attn.proj", attended(q, k, v, heads))


def mlp(p: Mapping[str, Tensor], at: str, z: Tensor) -> Tensor:
    return linear(p, f"{at}.mlp.fc2", F.gelu(linear(p, f"{at}.mlp.fc1", z)))


def block(p: Mapping[str, Tensor], at: str, x: Tensor, heads: int) -> Tensor:
    """An unchanged block."""
    x = x + attention(p, at, norm(p, f"{at}.norm1", x), heads)
    return x + mlp(p, at, norm(p, f"{at}.norm2", x))


def classified(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """From the class token."""
    return linear(p, "head", norm(p, "norm", x)[:, 0])


def trained(
    p: Params, names: Iterable[str], forward: Callable[[], tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Logits, loss and the gradients of some weights, under a golden's names.

    Args:
        p: All weights; read by `forward`.
        names: Of those that train.
        forward: Gives logits and loss.
    """
    names = list(names)
    for name in names:
        p[name].requires_grad_()
    logits, loss = forward()
    found = torch.autograd.grad(loss, [p[name] for name in names], allow_unused=True)
    for name in names:
        p[name].requires_grad_(False)
    gradients = {
        f"grad/{name}": torch.zeros_like(p[name]) if gradient is None else gradient
        for name, gradient in zip(names, found, strict=True)
    }
    return {"logits": logits.detach(), "loss": loss.detach(), **gradients}


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    params: Params,
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    backbone: Mapping[str, Any] | None = None,
    kind: str = "model",
    **further: str,
) -> Path:
    """A golden file; `further` metadata may replace the usual one."""
    metadata = {"kind": kind, "method": method, "case": path.stem, **further}
    metadata = {key: value for key, value in metadata.items() if value}
    metadata["hyperparameters"] = json.dumps(dict(hyperparameters))
    metadata["backbone"] = json.dumps(dict(backbone or {}))
    every = {**tensors, **{f"param/{name}": tensor for name, tensor in params.items()}}
    save_file({name: t.detach().clone().contiguous() for name, t in every.items()}, path, metadata=metadata)
    return path

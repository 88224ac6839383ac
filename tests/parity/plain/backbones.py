"""A plain ViT and Swin; a method overrides the steps that it changes.

Tensors are kept under the names that timm 0.4 to 0.6 gives them. `blocks.I` of a hierarchical backbone is
`layers.S.blocks.I`; steps are told the name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]


def affine(name: str, width: int) -> Shapes:
    """A norm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def layer(name: str, out: int, *fan_in: int, bias: bool = True) -> Shapes:
    """A linear layer or a convolution."""
    return {f"{name}.weight": (out, *fan_in)} | ({f"{name}.bias": (out,)} if bias else {})


def pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Backbone:
    """What all have in common: tensors by name, and steps that do nothing but for a method."""

    def __init__(self, given: dict[str, Any], **options: Any) -> None:
        self.given, self.options = given, options
        self.tensors: dict[str, Tensor] = {}

    def shapes(self) -> Shapes:
        """Of the backbone's tensors."""
        raise NotImplementedError

    def new(self) -> Shapes:
        """Of the method's tensors."""
        return {}

    def trains(self, name: str) -> bool:
        """Whether a tensor trains: the method's own, and the head."""
        return name.startswith("head.") or name in self.new()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """A tensor that is not always there."""
        return self.tensors.get(name)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor, eps: float | None = None) -> Tensor:
        """LayerNorm over the last dimension."""
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        eps = self.given["norm_eps"] if eps is None else eps
        return (x - mean) / (variance + eps).sqrt() * self[f"{name}.weight"] + self[f"{name}.bias"]

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        """What passes a step of a block: `norm1`, `qkv`, `proj`, `middle`, `norm2`, `fc1`, `fc2`, `output`, ..."""
        return x

    def enter(self, where: str, index: int, x: Tensor) -> Tensor:
        """What a block takes."""
        return x

    def further(self, where: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, N, d)."""
        return k, v

    def ls(self, name: str, x: Tensor) -> Tensor:
        gamma = self.get(f"{name}.gamma")
        return x if gamma is None else x * gamma

    def mlp(self, where: str, h: Tensor) -> Tensor:
        """The second half of a transformer block, without its shortcut."""
        y = self.step("norm2", where, self.norm(f"{where}.norm2", h))
        y = self.step("fc1", where, self.linear(f"{where}.mlp.fc1", y))
        return self.step("fc2", where, self.linear(f"{where}.mlp.fc2", F.gelu(y)))

    def attend(self, where: str, z: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """Attention within the first dimension; `bias` is added to the scores of the last tokens."""
        batch, tokens, width = z.shape
        qkv = self.step("qkv", where, self.linear(f"{where}.attn.qkv", z), z=z)
        q, k, v = (
            part.reshape(batch, tokens, heads, width // heads).transpose(1, 2)
            for part in qkv.split(width, dim=-1)
        )
        k, v = self.further(where, k, v)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // heads)
        if bias is not None:
            scores = scores + F.pad(bias, (k.shape[2] - bias.shape[-1], 0, tokens - bias.shape[-1], 0))
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        return self.step("proj", where, self.linear(f"{where}.attn.proj", y))


class Full(Backbone):
    """Everything trains."""

    def trains(self, name: str) -> bool:
        return True


def transformer_block(where: str, width: int, given: dict[str, Any]) -> Shapes:
    hidden = int(width * given["mlp_ratio"])
    return {
        **affine(f"{where}.norm1", width),
        **layer(f"{where}.attn.qkv", 3 * width, width, bias=given["qkv_bias"]),
        **layer(f"{where}.attn.proj", width, width),
        **affine(f"{where}.norm2", width),
        **layer(f"{where}.mlp.fc1", hidden, width),
        **layer(f"{where}.mlp.fc2", width, hidden),
    }


class ViT(Backbone):
    """Pre-norm ViT with a class token or without, LayerScale, average pooling."""

    @property
    def prefix(self) -> int:
        return int(self.given.get("class_token", True))

    @property
    def average(self) -> bool:
        return self.given.get("global_pool", "token") == "avg"

    def shapes(self) -> Shapes:
        g = self.given
        (height, width), (high, wide) = pair(g["img_size"]), pair(g["patch_size"])
        dim, tokens = g["embed_dim"], (height // high) * (width // wide) + self.prefix
        found = {"pos_embed": (1, tokens, dim), **layer("patch_embed.proj", dim, 3, high, wide)}
        if self.prefix:
            found["cls_token"] = (1, 1, dim)
        for i in range(g["depth"]):
            found |= transformer_block(f"blocks.{i}", dim, g)
            if g.get("init_values"):
                found |= {f"blocks.{i}.ls{n}.gamma": (dim,) for n in (1, 2)}
        found |= affine("fc_norm" if self.average else "norm", dim)
        return found | layer("head", g["num_classes"], dim)

    def forward(self, images: Tensor) -> Tensor:
        g, aux = self.given, {}
        self.aux = aux
        x = F.conv2d(
            images,
            self["patch_embed.proj.weight"],
            self["patch_embed.proj.bias"],
            stride=pair(g["patch_size"]),
        )
        x = self.step("patch_embed", "", x.flatten(2).transpose(1, 2))
        aux["patch_embed"] = x
        if self.prefix:
            x = torch.cat([self["cls_token"].expand(len(x), -1, -1), x], dim=1)
        x = x + self["pos_embed"]
        for i in range(g["depth"]):
            where = f"blocks.{i}"
            x = self.enter(where, i, x)
            z = self.step("norm1", where, self.norm(f"{where}.norm1", x))
            aux[f"attn{i}"] = y = self.attend(where, z, g["num_heads"])
            h = self.step("middle", where, x + self.ls(f"{where}.ls1", y))
            aux[f"mlp{i}"] = y = self.mlp(where, h)
            x = self.step("output", where, h + self.ls(f"{where}.ls2", y), h=h)
            aux[f"block{i}"] = x
        x = self.step("norm", "", x if self.average else self.norm("norm", x))
        aux["features"] = x
        x = self.norm("fc_norm", self.pooled(x)) if self.average else x[:, 0]
        return self.linear("head", x)

    def pooled(self, x: Tensor) -> Tensor:
        return x[:, self.prefix :].mean(1)


class Hierarchy(Backbone):
    """Stages of blocks, named `KEY.S.blocks.I`."""

    key = "layers"

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        """Stage, index of a block among all, and its name."""
        count = itertools.count()
        for stage, depth in enumerate(self.given["depths"]):
            for i in range(depth):
                yield stage, next(count), f"{self.key}.{stage}.blocks.{i}"

    def width(self, stage: int) -> int:
        return self.given["embed_dim"] * 2**stage


class Swin(Hierarchy):
    """Swin v1; tensors between its layers are (B, height, width, C)."""

    def shapes(self) -> Shapes:
        g = self.given
        found: Shapes = {**layer("patch_embed.proj", self.width(0), 3, *pair(g["patch_size"]))}
        found |= affine("patch_embed.norm", self.width(0))
        for stage, _, where in self.blocks():
            found |= transformer_block(where, self.width(stage), g)
            window, _ = self.window(stage)
            found[f"{where}.attn.relative_position_bias_table"] = (
                (2 * window - 1) ** 2,
                g["num_heads"][stage],
            )
        for stage in range(len(g["depths"]) - 1):
            width = self.width(stage)
            found |= affine(f"layers.{stage}.downsample.norm", 4 * width)
            found |= layer(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
        last = self.width(len(g["depths"]) - 1)
        return found | affine("norm", last) | layer("head", g["num_classes"], last)

    def window(self, stage: int) -> tuple[int, bool]:
        """Side of a window, and whether odd blocks shift."""
        side = self.given["img_size"] // self.given["patch_size"] // 2**stage
        return min(side, self.given["window_size"]), side > self.given["window_size"]

    def forward(self, images: Tensor) -> Tensor:
        g = self.given
        x = F.conv2d(
            images, self["patch_embed.proj.weight"], self["patch_embed.proj.bias"], stride=g["patch_size"]
        )
        x = self.step("patch_embed", "", x.permute(0, 2, 3, 1))
        x = self.step("patch_embed.norm", "", self.norm("patch_embed.norm", x))
        before = 0
        for stage, index, where in self.blocks():
            if stage != before:
                x, before = self.merge(f"layers.{before}.downsample", x), stage
            x = self.block(where, index, stage, x)
        x = self.step("norm", "", self.norm("norm", x))
        self.aux = {"features": self.pooled(x)}
        return self.linear("head", self.aux["features"])

    def pooled(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).mean(1)

    def merge(self, where: str, x: Tensor) -> Tensor:
        parts = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
        x = self.step("downsample", where, self.norm(f"{where}.norm", torch.cat(parts, dim=-1)))
        return self.linear(f"{where}.reduction", x)

    def block(self, where: str, index: int, stage: int, x: Tensor) -> Tensor:
        z = self.step("norm1", where, self.norm(f"{where}.norm1", x))
        h = self.step("middle", where, x + self.windowed(where, index, stage, z))
        return self.step("output", where, h + self.mlp(where, h), h=h)

    def windowed(self, where: str, index: int, stage: int, z: Tensor) -> Tensor:
        batch, height, width, dim = z.shape
        heads, (side, shifts) = self.given["num_heads"][stage], self.window(stage)
        first = index - sum(self.given["depths"][:stage])
        shift = side // 2 if shifts and first % 2 else 0
        z = torch.roll(z, (-shift, -shift), (1, 2))
        windows = z.reshape(batch, height // side, side, width // side, side, dim).transpose(2, 3)
        y = self.attend(
            where, windows.reshape(-1, side**2, dim), heads, self.bias(where, batch, z, side, shift)
        )
        y = y.reshape(batch, height // side, width // side, side, side, dim).transpose(2, 3)
        return torch.roll(y.reshape(z.shape), (shift, shift), (1, 2))

    def bias(self, where: str, batch: int, z: Tensor, side: int, shift: int) -> Tensor:
        """Relative positions and the mask of the shift, (B * windows, H, N, N)."""
        table = self[f"{where}.attn.relative_position_bias_table"]
        place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        row, column = place[:, :, None] - place[:, None, :] + side - 1
        bias = table[row * (2 * side - 1) + column].permute(2, 0, 1)
        height, width = z.shape[1:3]
        region = torch.zeros(height, width)
        if shift:
            for axis, length in ((0, height), (1, width)):
                at = torch.arange(length)
                part = (at >= length - side).int() + (at >= length - shift).int()
                region = region + (3 * part[:, None] if axis == 0 else part[None])
        same = region.reshape(height // side, side, width // side, side).transpose(1, 2).reshape(-1, side**2)
        mask = -100.0 * (same[:, :, None] != same[:, None, :])
        return bias[None] + mask.repeat(batch, 1, 1)[:, None]


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values that leave no step without effect."""
    if len(shape) == 1 or "gamma" in name:
        center = 0.0 if name.endswith(("bias", "_shift_1", "_shift_2", "_shift_3", "_shift_4")) else 1.0
        return center + 0.1 * torch.randn(shape)
    if name.endswith(".weight"):
        return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.5 * torch.randn(shape)

"""Plain ConvNeXt and AS-MLP, whose tensors are maps with the channels first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.plain.backbones import Full, Hierarchy, Shapes, affine, layer


class ConvNeXt(Hierarchy):
    """ConvNeXt; blocks see (B, C, height, width)."""

    key = "stages"

    def width(self, stage: int) -> int:
        return self.given["dims"][stage]

    def shapes(self) -> Shapes:
        g = self.given
        found = layer("stem.proj", self.width(0), 3, g["patch_size"], g["patch_size"])
        found |= affine("stem.norm", self.width(0))
        for stage, _, where in self.blocks():
            dim = self.width(stage)
            found |= layer(f"{where}.conv_dw", dim, 1, g["kernel"], g["kernel"]) | affine(
                f"{where}.norm", dim
            )
            found |= layer(f"{where}.mlp.fc1", 4 * dim, dim) | layer(f"{where}.mlp.fc2", dim, 4 * dim)
            if g["layer_scale"]:
                found[f"{where}.gamma"] = (dim,)
        for stage in range(1, len(g["depths"])):
            here, dim = f"stages.{stage}.downsample", self.width(stage - 1)
            found |= affine(f"{here}.norm", dim) | layer(f"{here}.proj", self.width(stage), dim, 2, 2)
        last = self.width(len(g["depths"]) - 1)
        return found | affine("head.norm", last) | layer("head.fc", g["num_classes"], last)

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], **options)

    def norm_first(self, name: str, x: Tensor) -> Tensor:
        """LayerNorm over the channels of (B, C, height, width)."""
        return self.norm(name, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.step("stem.proj", "", self.conv("stem.proj", images, stride=self.given["patch_size"]))
        x = self.step("stem.norm", "", self.norm_first("stem.norm", x))
        before = 0
        for stage, _, where in self.blocks():
            if stage != before:
                here, before = f"stages.{stage}.downsample", stage
                x = self.step("downsample.norm", here, self.norm_first(f"{here}.norm", x))
                x = self.step("downsample.proj", here, self.conv(f"{here}.proj", x, stride=2))
            y = self.conv(f"{where}.conv_dw", x, padding=self.given["kernel"] // 2, groups=x.shape[1])
            y = self.step("conv_dw", where, y).permute(0, 2, 3, 1)
            y = self.step("norm", where, self.norm(f"{where}.norm", y))
            y = self.step("fc1", where, self.linear(f"{where}.mlp.fc1", y))
            y = self.step("fc2", where, self.linear(f"{where}.mlp.fc2", F.gelu(y)))
            gamma = self.get(f"{where}.gamma")
            x = x + (y if gamma is None else y * gamma).permute(0, 3, 1, 2)
        x = self.step("top", "", x)
        self.aux = {"features": x}
        return self.linear("head.fc", self.norm("head.norm", x.mean((2, 3))))


class AsMlp(Hierarchy):
    """AS-MLP; all tensors are (B, C, height, width) and all norms GroupNorm with one group."""

    def shapes(self) -> Shapes:
        g, bias = self.given, self.given["as_bias"]
        patch = g["patch_size"]
        found = layer("patch_embed.proj", self.width(0), 3, patch, patch)
        found |= affine("patch_embed.norm", self.width(0))
        for stage, _, where in self.blocks():
            dim = self.width(stage)
            found |= affine(f"{where}.norm1", dim) | affine(f"{where}.norm2", dim)
            hidden = int(dim * g["mlp_ratio"])
            found |= layer(f"{where}.mlp.fc1", hidden, dim, 1, 1) | layer(
                f"{where}.mlp.fc2", dim, hidden, 1, 1
            )
            for name in ("conv1", "conv2_1", "conv2_2", "conv3"):
                found |= layer(f"{where}.axial_shift.{name}", dim, dim, 1, 1, bias=bias)
            for name in ("norm1", "norm2"):
                found |= affine(f"{where}.axial_shift.{name}", dim)
        for stage in range(len(g["depths"]) - 1):
            here, dim = f"layers.{stage}.downsample", self.width(stage)
            found |= affine(f"{here}.norm", 4 * dim)
            found |= layer(f"{here}.reduction", 2 * dim, 4 * dim, 1, 1, bias=False)
        last = self.width(len(g["depths"]) - 1)
        return found | affine("norm", last) | layer("head", g["num_classes"], last)

    def group(self, name: str, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) / (((x - mean) ** 2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return x * self[f"{name}.weight"][:, None, None] + self[f"{name}.bias"][:, None, None]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, self[f"{name}.weight"], self.get(f"{name}.bias"), stride=stride)

    def moved(self, x: Tensor, axis: int) -> Tensor:
        """Group j of the channels at w holds what was at w - (j - p); zeros come in."""
        size, length = self.given["shift_size"], x.shape[axis]
        chunk, out = math.ceil(x.shape[1] / size), torch.zeros_like(x)
        for channel in range(x.shape[1]):
            by = channel // chunk - size // 2
            for w in range(max(0, by), min(length, length + by)):
                place = (slice(None), channel, w) if axis == 2 else (slice(None), channel, slice(None), w)
                source = (*place[:-1], w - by)
                out[place] = x[source]
        return out

    def forward(self, images: Tensor) -> Tensor:
        x = self.step("patch_embed", "", self.conv("patch_embed.proj", images, self.given["patch_size"]))
        x = self.step("patch_embed.norm", "", self.group("patch_embed.norm", x))
        before = 0
        for stage, _, where in self.blocks():
            if stage != before:
                here, before = f"layers.{before}.downsample", stage
                parts = [x[:, :, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
                x = self.step("downsample", here, self.group(f"{here}.norm", torch.cat(parts, dim=1)))
                x = self.conv(f"{here}.reduction", x)
            shift = f"{where}.axial_shift"
            y = self.step("norm1", where, self.group(f"{where}.norm1", x))
            y = self.step("conv1", where, self.conv(f"{shift}.conv1", y))
            y = F.gelu(self.group(f"{shift}.norm1", y))
            wide = F.gelu(self.step("conv2_1", where, self.conv(f"{shift}.conv2_1", self.moved(y, 3))))
            high = F.gelu(self.step("conv2_2", where, self.conv(f"{shift}.conv2_2", self.moved(y, 2))))
            y = self.conv(f"{shift}.conv3", self.group(f"{shift}.norm2", wide + high))
            x = x + self.step("conv3", where, y)
            y = self.step("norm2", where, self.group(f"{where}.norm2", x))
            y = self.step("fc1", where, self.conv(f"{where}.mlp.fc1", y))
            x = x + self.step("fc2", where, self.conv(f"{where}.mlp.fc2", F.gelu(y)))
        x = self.step("norm", "", self.group("norm", x))
        self.aux = {"features": x.mean((2, 3))}
        return self.linear("head", self.aux["features"])


class FullConvNeXt(Full, ConvNeXt):
    """Full fine-tuning."""


class FullAsMlp(Full, AsMlp):
    """Full fine-tuning."""

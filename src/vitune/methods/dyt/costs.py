"""Multiply-accumulates of a DyT model in closed form, from the tokens that every gate keeps.

The unit is that of the paper: products and convolutions, five per element of a norm, nothing for softmax, GELU, sums
and the gates (a gate takes N D more). `F = base + sum over blocks of block(t)`, with t the kept patch tokens and the
prefix tokens. Behind the last block the head reads the prefix tokens alone, so what runs is less than the paper's F by
what the MLP there would take for kept patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitune.anatomy import Anatomy, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.methods.dyt._method import DyT
from vitune.methods.dyt.reading import head_reads

_NORM = 5  # per element


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one image.

    Attributes:
        images: Of every image with the tokens that it keeps, (B,) integers.
        every_token: With all tokens kept.
        plain: Of the backbone without the method.
        unread: Of `images`, those for kept patch tokens that nobody reads, which inference leaves out, (B,).
    """

    images: Tensor
    every_token: int
    plain: int
    unread: Tensor

    @property
    def ratios(self) -> Tensor:
        """Of every image to the plain backbone, (B,)."""
        return self.images / self.plain


def macs(anatomy: Anatomy, method: DyT, kept: Mapping[str, Tensor]) -> Macs:
    """Count, without running anything.

    Args:
        anatomy: The backbone; a ViT with one width, without attention pooling.
        method: The settings.
        kept: What `kept_tokens` gives: gate's role to the patch tokens (B, N) it keeps.

    Raises:
        UnsupportedBackboneError: If the backbone is of another kind.
    """
    windows = len({block.width for block in anatomy.blocks}) > 1
    if windows or any(operator.role.startswith("pool.") for operator in anatomy.operators):
        raise UnsupportedBackboneError(
            f"the closed form knows plain vision transformers, not a {anatomy.family} with stages or attention "
            f"pooling; count what runs with vitune.measure.count_flops."
        )
    tokens = math.prod(anatomy.grid) + anatomy.num_prefix_tokens
    batch = len(next(iter(kept.values())))
    all_tokens = torch.full((batch,), tokens)
    images = torch.zeros(batch, dtype=torch.int64)
    unread = torch.zeros_like(images)
    plain = 0
    adapters = 0
    for block in anatomy.blocks:
        cost = _BlockCost.of(anatomy, block.index, block.width)
        plain += int(cost.attention(all_tokens)[0] + cost.mlp(all_tokens)[0])
        there = {part: kept.get(f"blocks.{block.index}.{part}around") for part in ("", "attn.", "mlp.")}
        count = {
            part: all_tokens if mask is None else mask.sum(1).cpu() + anatomy.num_prefix_tokens
            for part, mask in there.items()
        }
        in_attention = count["attn."] if there[""] is None else count[""]
        in_mlp = count["mlp."] if there[""] is None else count[""]
        images += cost.attention(in_attention) + cost.mlp(in_mlp)
        if block is anatomy.blocks[-1] and there["mlp."] is not None and head_reads(anatomy):
            unread = cost.mlp(in_mlp - anatomy.num_prefix_tokens)
        one = 2 * tokens * block.width * method.bottleneck
        one += _NORM * tokens * block.width * (method.layernorm != "none")
        adapters += one * (2 if method.dispatch == "attention-mlp" else 1)
    base = _base(anatomy, tokens)
    return Macs(images + base + adapters, plain + base + adapters, plain + base, unread)


@dataclass(frozen=True)
class _BlockCost:
    """What the parts of a block take, as functions of the number of tokens (B,)."""

    width: int
    attention_per_token: int
    mlp_per_token: int

    @classmethod
    def of(cls, anatomy: Anatomy, index: int, width: int) -> _BlockCost:
        per_token = {"attn": 0, "mlp": 0}
        for operator in anatomy.operators:
            if not operator.role.startswith(f"blocks.{index}."):
                continue
            short = short_name(operator.role)
            part = "attn" if short.startswith(("attn", "norm1")) else "mlp"
            if operator.kind == "linear":
                per_token[part] += operator.in_features * operator.out_features
            elif operator.kind == "norm":
                per_token[part] += _NORM * (width if part == "attn" else operator.out_features)
        return cls(width, per_token["attn"], per_token["mlp"])

    def attention(self, tokens: Tensor) -> Tensor:
        return tokens * self.attention_per_token + 2 * tokens * tokens * self.width

    def mlp(self, tokens: Tensor) -> Tensor:
        return tokens * self.mlp_per_token


def _base(anatomy: Anatomy, tokens: int) -> int:
    """Patch embedding, norms outside the blocks, and the head."""
    total = 0
    for operator in anatomy.operators:
        if operator.role == "patch_embed":
            module: Any = anatomy.model.get_submodule(operator.path)
            total += math.prod(anatomy.grid) * module.weight.numel()
        elif operator.role in ("norm_pre", "norm") and operator.kind == "norm":
            total += _NORM * tokens * operator.out_features
        elif operator.role == "fc_norm":
            total += _NORM * operator.out_features
    for path in anatomy.head:
        module = anatomy.model.get_submodule(path)
        total += module.in_features * module.out_features
    return total

"""SSF on all plain backbones, from its formulas; tensors under the reference's names."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from tests.parity.plain.backbones import Backbone, Shapes, Swin, ViT
from tests.parity.plain.maps import AsMlp, ConvNeXt


class Ssf(Backbone):
    """A pair behind every step in a table: step to (prefix of the name, number), with the width of each."""

    sites: ClassVar[dict[str, tuple[str, int]]]
    first = False  # channels come first

    def widths(self) -> dict[tuple[str, int], int]:
        """Of every pair: (prefix, number) to width."""
        raise NotImplementedError

    def new(self) -> Shapes:
        return {
            f"{prefix}ssf_{kind}_{number}": (width,)
            for (prefix, number), width in self.widths().items()
            for kind in ("scale", "shift")
        }

    def site(self, what: str, where: str) -> tuple[str, int] | None:
        if what not in self.sites:
            return None
        prefix, number = self.sites[what]
        return (f"{where}." if where else "") + prefix, number

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        site = self.site(what, where)
        if site is None or site not in self.widths():
            return x
        s, t = (self[f"{site[0]}ssf_{kind}_{site[1]}"] for kind in ("scale", "shift"))
        return x * s[:, None, None] + t[:, None, None] if self.is_first(what) else x * s + t

    def is_first(self, what: str) -> bool:
        """Whether channels come first at a step."""
        return self.first


TRANSFORMER = {
    "patch_embed": ("patch_embed.", 1),
    "patch_embed.norm": ("patch_embed.", 2),
    "norm1": ("", 1),
    "qkv": ("attn.", 1),
    "proj": ("attn.", 2),
    "norm2": ("", 2),
    "fc1": ("mlp.", 1),
    "fc2": ("mlp.", 2),
    "downsample": ("", 1),
    "norm": ("", 1),
}


def of_transformer_block(where: str, dim: int, given: dict[str, Any]) -> dict[tuple[str, int], int]:
    """Widths of the pairs of a block."""
    here = f"{where}."
    return {
        (here, 1): dim,
        (f"{here}attn.", 1): 3 * dim,
        (f"{here}attn.", 2): dim,
        (here, 2): dim,
        (f"{here}mlp.", 1): int(given["mlp_ratio"] * dim),
        (f"{here}mlp.", 2): dim,
    }


class SsfViT(Ssf, ViT):
    """SSF."""

    sites = TRANSFORMER

    def widths(self) -> dict[tuple[str, int], int]:
        dim = self.given["embed_dim"]
        found = {("patch_embed.", 1): dim, ("", 1): dim}
        for i in range(self.given["depth"]):
            found |= of_transformer_block(f"blocks.{i}", dim, self.given)
        return found


class SsfSwin(Ssf, Swin):
    """SSF."""

    sites = TRANSFORMER

    def widths(self) -> dict[tuple[str, int], int]:
        dim, last = self.width(0), len(self.given["depths"]) - 1
        found = {("patch_embed.", 1): dim, ("patch_embed.", 2): dim, ("", 1): self.width(last)}
        for stage, _, where in self.blocks():
            found |= of_transformer_block(where, self.width(stage), self.given)
        if self.given.get("patch_merging_pair"):
            found |= {(f"layers.{s}.downsample.", 1): 4 * self.width(s) for s in range(last)}
        return found


class SsfConvNeXt(Ssf, ConvNeXt):
    """SSF."""

    sites: ClassVar = {
        "stem.proj": ("stem.", 1),
        "stem.norm": ("stem.", 2),
        "conv_dw": ("", 1),
        "norm": ("", 2),
        "fc1": ("mlp.", 1),
        "fc2": ("mlp.", 2),
        "downsample.norm": ("", 1),
        "downsample.proj": ("", 2),
        "top": ("", 1),
    }

    def is_first(self, what: str) -> bool:
        return what not in ("norm", "fc1", "fc2")

    def widths(self) -> dict[tuple[str, int], int]:
        dim, last = self.width(0), len(self.given["depths"]) - 1
        found = {("stem.", 1): dim, ("stem.", 2): dim, ("", 1): self.width(last)}
        for stage, _, where in self.blocks():
            dim, here = self.width(stage), f"{where}."
            found |= {(here, 1): dim, (here, 2): dim, (f"{here}mlp.", 1): 4 * dim, (f"{here}mlp.", 2): dim}
        if self.given.get("downsample_pairs"):
            for stage in range(1, last + 1):
                here = f"stages.{stage}.downsample."
                found |= {(here, 1): self.width(stage - 1), (here, 2): self.width(stage)}
        return found


class SsfAsMlp(Ssf, AsMlp):
    """SSF."""

    first = True
    sites = TRANSFORMER | {
        "conv1": ("axial_shift.", 1),
        "conv2_1": ("axial_shift.", 2),
        "conv2_2": ("axial_shift.", 3),
        "conv3": ("axial_shift.", 4),
    }

    def widths(self) -> dict[tuple[str, int], int]:
        dim, last = self.width(0), len(self.given["depths"]) - 1
        found = {("", 1): self.width(last)}
        if self.given.get("patch_embed_pairs"):
            found |= {("patch_embed.", 1): dim, ("patch_embed.", 2): dim}
        for stage, _, where in self.blocks():
            dim, here = self.width(stage), f"{where}."
            found |= {(here, 1): dim, (here, 2): dim}
            found |= {(f"{here}axial_shift.", n): dim for n in (1, 2, 3, 4)}
            found |= {(f"{here}mlp.", 1): int(self.given["mlp_ratio"] * dim), (f"{here}mlp.", 2): dim}
        if self.given.get("patch_merging_pair"):
            found |= {(f"layers.{s}.downsample.", 1): 4 * self.width(s) for s in range(last)}
        return found

"""Methods on the plain backbones, from their formulas; tensors under the references' names."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.plain.backbones import Backbone, Shapes, Swin, ViT, affine, layer
from tests.parity.plain.maps import AsMlp, ConvNeXt


class Full(Backbone):
    """Everything trains."""

    def trains(self, name: str) -> bool:
        return True


class BitFit(Backbone):
    """What has `bias` in its name, and the head."""

    def trains(self, name: str) -> bool:
        return "bias" in name or name.startswith("head.")


class FullViT(Full, ViT):
    """Full fine-tuning."""


class FullSwin(Full, Swin):
    """Full fine-tuning."""


class BitFitViT(BitFit, ViT):
    """BitFit."""


class BitFitSwin(BitFit, Swin):
    """BitFit."""


class AdaptFormer(ViT):
    """Official form: options `parallel`, `sequential`; a fixed or learned scale; a LayerNorm in, out or none."""

    def new(self) -> Shapes:
        h, dim, bias = self.options["bottleneck"], self.given["embed_dim"], self.options["adapter_bias"]
        found: Shapes = {}
        for i in range(self.given["depth"]):
            here = f"blocks.{i}.adaptmlp"
            found |= layer(f"{here}.down_proj", h, dim, bias=bias)
            found |= layer(f"{here}.up_proj", dim, h, bias=bias)
            if self.options["layernorm"] != "none":
                found |= affine(f"{here}.adapter_layer_norm_before", dim)
            if self.options["scalar"] == "learnable_scalar":
                found[f"{here}.scale"] = (1,)
        return found

    def branch(self, where: str, x: Tensor) -> Tensor:
        here, o = f"{where}.adaptmlp", self.options
        if o["layernorm"] == "in":
            x = self.norm(f"{here}.adapter_layer_norm_before", x, 1e-5)
        y = self.linear(f"{here}.up_proj", F.relu(self.linear(f"{here}.down_proj", x)))
        y = y * (self[f"{here}.scale"] if o["scalar"] == "learnable_scalar" else float(o["scalar"]))
        return self.norm(f"{here}.adapter_layer_norm_before", y, 1e-5) if o["layernorm"] == "out" else y

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        if what == "fc2" and self.options["option"] == "sequential":
            return x + self.branch(where, x)
        if what == "output" and self.options["option"] == "parallel":
            return x + self.branch(where, also["h"])
        return x


class PetlAdaptFormer(ViT):
    """PETL-ViT's form: no biases."""

    def new(self) -> Shapes:
        h, dim = self.options["dim"], self.given["embed_dim"]
        names = [f"blocks.{i}.adapter_mlp" for i in range(self.given["depth"])]
        return {
            f"{name}.adapter_{end}.weight": shape
            for name in names
            for end, shape in (("down", (h, dim)), ("up", (dim, h)))
        }

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        if what != "output":
            return x
        here = f"{where}.adapter_mlp.adapter"
        y = self.linear(f"{here}_up", F.relu(self.linear(f"{here}_down", also["h"])))
        return x + self.options["scale"] * y


class Lora(ViT):
    """PETL-ViT's form: factors of their own for rows of the fused qkv."""

    def new(self) -> Shapes:
        r, dim = self.options["dim"], self.given["embed_dim"]
        return {
            f"blocks.{i}.attn.lora_{part}.adapter_{end}.weight": shape
            for i in range(self.given["depth"])
            for part in "qv"
            for end, shape in (("down", (r, dim)), ("up", (dim, r)))
        }

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        if what != "qkv":
            return x
        parts = list(x.chunk(3, dim=-1))
        for i, part in ((0, "q"), (2, "v")):
            here = f"{where}.attn.lora_{part}.adapter"
            update = self.linear(f"{here}_up", self.linear(f"{here}_down", also["z"]))
            parts[i] = parts[i] + self.options["scale"] * update
        return torch.cat(parts, dim=-1)


class NoahLora(ViT):
    """NOAH's form: one pair of factors for the whole of qkv."""

    def new(self) -> Shapes:
        r, dim, found = self.options["dim"], self.given["embed_dim"], {}
        for i in range(self.given["depth"]):
            found |= layer(f"blocks.{i}.attn.LoRA_a", r, dim, bias=False)
            found |= layer(f"blocks.{i}.attn.LoRA_b", 3 * dim, r, bias=False)
        return found

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        if what != "qkv":
            return x
        here = f"{where}.attn.LoRA"
        return x + self.linear(f"{here}_b", self.linear(f"{here}_a", also["z"]))


class Adapter(ViT):
    """In sequence with the MLP, and with attention where Houlsby's placement is asked for."""

    def ends(self) -> dict[str, str]:
        """Step to the end of the adapter's name."""
        return {"fc2": ""} if self.options["style"] == "pfeiffer" else {"fc2": "", "proj": "_attn"}

    def new(self) -> Shapes:
        h, dim, found = self.options["bottleneck"], self.given["embed_dim"], {}
        for i in range(self.given["depth"]):
            for end in self.ends().values():
                found |= layer(f"blocks.{i}.adapter_downsample{end}", h, dim)
                found |= layer(f"blocks.{i}.adapter_upsample{end}", dim, h)
        return found

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        if what not in self.ends():
            return x
        end = self.ends()[what]
        hidden = self.linear(f"{where}.adapter_downsample{end}", x)
        act: Any = {
            "gelu_exact": F.gelu,
            "quickgelu": lambda y: y * torch.sigmoid(1.702 * y),
            "relu": F.relu,
        }
        hidden = act[self.options["activation"]](hidden)
        return x + self.options["scale"] * self.linear(f"{where}.adapter_upsample{end}", hidden)


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


class Sct(Backbone):
    """A map of salient channels, which are given."""

    def __init__(self, given: dict[str, Any], **options: Any) -> None:
        super().__init__(given, **options)
        self.measured: dict[str, Tensor] = {}

    def chosen(self) -> dict[str, str]:
        """Block to what its index is called."""
        return {f"blocks.{i}": str(i) for i in range(self.given["depth"])}

    def names(self, where: str) -> list[str]:
        mode = self.options["mode"]
        if mode == "sct_qkv":
            return [f"{where}.attn.q_l", f"{where}.attn.v_l"]
        return [f"{where}.{mode}.adapt_linear"]

    def new(self) -> Shapes:
        k, found = self.options["topN"], {}
        for where in self.chosen():
            for name in self.names(where):
                found |= layer(name, k, k)
        return found

    def channels(self, width: dict[str, int]) -> dict[str, Tensor]:
        """An index for each map, ascending."""
        k, found = self.options["topN"], {}
        for where, called in self.chosen().items():
            for part in ("q_", "v_") if self.options["mode"] == "sct_qkv" else ("",):
                found[f"channel_index_{part}{called}"] = torch.randperm(width[where])[:k].sort().values
        return found

    def changed(self, name: str, index: Tensor, x: Tensor) -> Tensor:
        u, c = x[..., index], self.options.get("scale", 1.0)
        v = self.linear(name, u)
        y = x.clone()
        y[..., index] = c * u + v if self.options.get("scale_on") == "input" else u + c * v
        return y

    def step(self, what: str, where: str, x: Tensor, **also: Tensor) -> Tensor:
        mode = self.options["mode"]
        measured = {"middle": "attn", "output": "mlp", "qkv": "qkv"}.get(what)
        if measured:  # what a choice of channels would look at
            self.measured[f"{measured}.{where}"] = x
        if where not in self.chosen():
            return x
        if what == {"sct_attn": "middle", "sct_mlp": "fc2"}.get(mode):
            return self.changed(self.names(where)[0], self.index[f"channel_index_{self.chosen()[where]}"], x)
        if what == "qkv" == mode.removeprefix("sct_"):
            q, k, v = x.chunk(3, dim=-1)
            call = self.chosen()[where]
            q = self.changed(f"{where}.attn.q_l", self.index[f"channel_index_q_{call}"], q)
            v = self.changed(f"{where}.attn.v_l", self.index[f"channel_index_v_{call}"], v)
            return torch.cat([q, k, v], dim=-1)
        return x


class SctViT(Sct, ViT):
    """SCT."""

    def draw(self) -> None:
        self.index = self.channels(dict.fromkeys(self.chosen(), self.given["embed_dim"]))


class SctSwin(Sct, Swin):
    """SCT in the last half of the last stage but one, and in the last."""

    def chosen(self) -> dict[str, str]:
        depths = self.given["depths"]
        last = len(depths) - 1
        found = {}
        for stage, start in ((last - 1, depths[last - 1] // 2), (last, 0)):
            for i in range(start, depths[stage]):
                found[f"layers.{stage}.blocks.{i}"] = f"{stage}_{i}"
        return found

    def draw(self) -> None:
        stages = {where: self.width(stage) for stage, _, where in self.blocks()}
        self.index = self.channels(stages)

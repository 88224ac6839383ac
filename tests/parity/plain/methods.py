"""Methods on the plain backbones, from their formulas; tensors under the references' names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.plain.backbones import Backbone, Full, Shapes, Swin, ViT, affine, layer


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


class PeftLora(ViT):
    """The usual LoRA library's form: s = alpha / r, whole layers."""

    def new(self) -> Shapes:
        found: Shapes = {}
        for name, (out, fan_in) in ((n, s) for n, s in self.shapes().items() if len(s) == 2):
            layer_name = name.removesuffix(".weight")
            if layer_name.endswith(tuple(self.options["target_modules"])):
                found |= layer(f"{layer_name}.lora_A.default", self.options["r"], fan_in, bias=False)
                found |= layer(f"{layer_name}.lora_B.default", out, self.options["r"], bias=False)
        return found

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = super().linear(name, x)
        if f"{name}.lora_A.default.weight" not in self.tensors:
            return y
        update = F.linear(
            F.linear(x, self[f"{name}.lora_A.default.weight"]), self[f"{name}.lora_B.default.weight"]
        )
        return y + self.options["lora_alpha"] / self.options["r"] * update


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

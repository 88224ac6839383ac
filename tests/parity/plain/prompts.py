"""VPT and E2VPT on the plain ViT and Swin, from their formulas; tensors under the references' names."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.parity.plain.backbones import Backbone, Shapes, Swin, ViT, layer


class Prompted(Backbone):
    """Prompts under masks, and key-value prompts."""

    at = "enc."

    @property
    def prompts(self) -> int:
        return self.options.get("num_prompts", self.options.get("num_visual_prompts", 0))

    @property
    def deep(self) -> bool:
        return self.options.get("deep", self.options.get("visual_prompts_deep", True))

    def trains(self, name: str) -> bool:
        if "mask" in name:
            return self.options.get("masks_trainable", False)
        return super().trains(name) or (bool(self.options.get("biases")) and "bias" in name)

    def masks(self) -> Shapes:
        """Of the masks that there are: of `options["masked"]`."""
        which, start = self.options.get("masked", ()), f"{self.at}prompt_soft_tokens_"
        found: Shapes = {}
        if "tokens" in which:
            found[f"{start}mask_cls_token"] = (self.prompts,)
        if "segments" in which:
            found[f"{start}pieces_mask_cls_token"] = (self.prompts, self.options["segments"])
        return found

    def masked(self, rows: Tensor) -> Tensor:
        """Channel j of prompt t times M[t, j mod S], then m[t]."""
        segments = self.get(f"{self.at}prompt_soft_tokens_pieces_mask_cls_token")
        if segments is not None:
            channels = torch.arange(rows.shape[-1]) % segments.shape[1]
            rows = rows * segments[:, channels]
        tokens = self.get(f"{self.at}prompt_soft_tokens_mask_cls_token")
        return rows if tokens is None else rows * tokens[:, None]

    def attention(self, where: str) -> str:
        """What the reference calls the attention of a block."""
        return f"enc.{where}.attn"

    def kv_shapes(self, where: str, heads: int, dim: int) -> Shapes:
        n = self.options.get("num_kv_prompts", 0)
        ends = ("",) if self.options.get("kv_shared", True) else ("_K", "_V")
        name = f"{self.attention(where)}.deep_QKV_embeddings"
        return {f"{name}{end}": (heads, n, dim // heads) for end in ends} if n else {}

    def further(self, where: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        name = f"{self.attention(where)}.deep_QKV_embeddings"
        shared = self.get(name)
        keys = self.get(f"{name}_K") if shared is None else shared
        values = self.get(f"{name}_V") if shared is None else shared
        if keys is None or values is None:
            return k, v
        sides = [(x.expand(len(k), -1, -1, -1), y) for x, y in ((keys, k), (values, v))]
        if not self.options.get("kv_prompts_first", True):
            sides = [(y, x) for x, y in sides]
        return torch.cat(sides[0], dim=2), torch.cat(sides[1], dim=2)


class PromptedViT(Prompted, ViT):
    """The prompts enter behind the class token."""

    at = "enc.transformer."

    def attention(self, where: str) -> str:
        return where.replace("blocks.", "enc.transformer.encoder.layer.") + ".attn"

    def new(self) -> Shapes:
        g, o = self.given, self.options
        r = o.get("project", -1)
        width = g["embed_dim"] if r == -1 else r
        found = self.masks()
        if self.prompts:
            found[f"{self.at}prompt_embeddings"] = (1, self.prompts, width)
            layers = o.get("layers", g["depth"])
            if self.deep and layers > 1:
                found[f"{self.at}deep_prompt_embeddings"] = (layers - 1, self.prompts, width)
            if r != -1:
                found |= layer(f"{self.at}prompt_proj", g["embed_dim"], r)
        for i in range(g["depth"] if o.get("kv_prompts_all_layers", True) else 1):
            found |= self.kv_shapes(f"blocks.{i}", g["num_heads"], g["embed_dim"])
        return found

    def rows(self, index: int, batch: int) -> Tensor | None:
        """The prompts that enter at a block."""
        if index == 0:
            rows = self[f"{self.at}prompt_embeddings"][0]
        else:
            deep = self.get(f"{self.at}deep_prompt_embeddings")
            if deep is None or index > len(deep):
                return None
            rows = deep[index - 1]
        if f"{self.at}prompt_proj.weight" in self.tensors:
            rows = self.linear(f"{self.at}prompt_proj", rows)
        return self.masked(rows).expand(batch, -1, -1)

    def enter(self, where: str, index: int, x: Tensor) -> Tensor:
        rows = self.rows(index, len(x)) if self.prompts else None
        if rows is None:
            return x
        behind = self.prefix if index == 0 else self.prefix + self.prompts
        return torch.cat([x[:, : self.prefix], rows, x[:, behind:]], dim=1)


class PromptedMoco(PromptedViT):
    """The same, in timm's names below `enc`."""

    at = "enc."

    def attention(self, where: str) -> str:
        return f"enc.{where}.attn"


class PromptedMae(PromptedMoco):
    """MAE's read-out: an average over all tokens but the class token, prompts included unless patches alone are."""

    def pooled(self, x: Tensor) -> Tensor:
        alone = "patch tokens only" in self.given["pooling"]
        return x[:, self.prefix + (self.prompts if alone else 0) :].mean(1)


class PromptedSwin(Prompted, Swin):
    """The prompts stand in front of every window; the reference mixes those of a batch's images."""

    def new(self) -> Shapes:
        g = self.given
        found = self.masks() | {"enc.prompt_embeddings": (1, self.prompts, self.width(0))}
        if self.deep:
            for stage, depth in enumerate(g["depths"]):
                count = depth - (stage == 0)
                if count:
                    found[f"enc.deep_prompt_embeddings_{stage}"] = (count, self.prompts, self.width(stage))
        for stage, _, where in self.blocks():
            found |= self.kv_shapes(where, g["num_heads"][stage], self.width(stage))
        return found

    def block(self, where: str, index: int, stage: int, x: Tensor) -> Tensor:
        if index == 0:
            self.rows = self.masked(self["enc.prompt_embeddings"][0]).expand(len(x), -1, -1)
        elif self.deep:
            i = index - sum(self.given["depths"][:stage]) - (stage == 0)
            self.rows = self[f"enc.deep_prompt_embeddings_{stage}"][i].expand(len(x), -1, -1)
        asking = self.norm(f"{where}.norm1", self.rows)
        y = self.windowed_with(where, index, stage, self.norm(f"{where}.norm1", x), asking)
        self.rows = self.rows + self.told
        self.rows = self.rows + self.mlp(where, self.rows)
        h = x + y
        return h + self.mlp(where, h)

    def windowed_with(self, where: str, index: int, stage: int, z: Tensor, asking: Tensor) -> Tensor:
        self.asking = asking
        y = self.windowed(where, index, stage, z)
        self.asking = None
        return y

    def attend(self, where: str, z: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
        """Windows are batch first, the copies of prompts window first; these are averaged in their own order."""
        batch, p = len(self.asking), self.prompts
        copies = self.asking[None].expand(len(z) // batch, -1, -1, -1).reshape(-1, p, z.shape[-1])
        y = super().attend(where, torch.cat([copies, z], dim=1), heads, bias)
        self.told = y[:, :p].reshape(-1, batch, p, z.shape[-1]).mean(0)
        return y[:, p:]

    def merge(self, where: str, x: Tensor) -> Tensor:
        rows = torch.cat([self.rows] * 4, dim=-1)
        self.rows = self.linear(f"{where}.reduction", self.norm(f"{where}.norm", rows))
        return super().merge(where, x)

    def pooled(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm("norm", self.rows), x.flatten(1, 2)], dim=1).mean(1)

"""Plain models from the `backbone` metadata, and the names their weights have in the references."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers import LayerNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

_SAME = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "qkv_bias")
_OPTIONAL = ("in_chans", "init_values", "class_token", "reg_tokens", "qk_norm", "no_embed_class", "fc_norm")


@dataclass(frozen=True)
class Place:
    """A tensor of our model, or some rows of it."""

    name: str
    rows: slice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor[self.rows]


def build(backbone: dict[str, Any]) -> nn.Module:
    family = backbone.get("family", "vit")
    if family != "vit":
        raise ValueError(f"no backbone is known for family '{family}'")
    options = {key: backbone[key] for key in _SAME}
    options |= {key: backbone[key] for key in _OPTIONAL if key in backbone}
    pool = backbone.get("global_pool", backbone.get("pool", "token"))
    options["global_pool"] = "avg" if pool.startswith(("avg", "average", "mean")) else "token"
    return VisionTransformer(**options, norm_layer=partial(LayerNorm, eps=backbone["norm_eps"]))


def place(name: str, width: int) -> Place:
    """Where a reference keeps a weight of the plain backbone, in timm's names of today."""
    separate = re.fullmatch(r"(blocks\.\d+\.attn)\.([qkv])_proj\.(weight|bias)", name)
    if separate:
        start = "qkv".index(separate[2]) * width
        return Place(f"{separate[1]}.qkv.{separate[3]}", slice(start, start + width))
    on_block = re.fullmatch(r"(blocks\.\d+)\.(fc[12])\.(weight|bias)", name)
    return Place(f"{on_block[1]}.mlp.{on_block[2]}.{on_block[3]}") if on_block else Place(name)

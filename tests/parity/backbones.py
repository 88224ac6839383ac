"""Plain models from the `backbone` metadata, and the names their weights have in the references."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.layers.norm import LayerNorm
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitune.anatomy import Anatomy
from vitune.backbones.as_mlp import AsMlp

_SAME = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "qkv_bias")
_OPTIONAL = ("in_chans", "init_values", "class_token", "reg_tokens", "qk_norm", "no_embed_class", "fc_norm")
_SWIN = (
    "img_size",
    "patch_size",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "mlp_ratio",
    "num_classes",
)

# The ViT of KMnP/vpt, in the names that `place` knows further.
_KMNP = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings\.(\w+)": r"patch_embed.proj.\1",
    r"encoder\.encoder_norm\.(\w+)": r"norm.\1",
    r"encoder\.layer\.(\d+)\.attention_norm\.(\w+)": r"blocks.\1.norm1.\2",
    r"encoder\.layer\.(\d+)\.ffn_norm\.(\w+)": r"blocks.\1.norm2.\2",
    r"encoder\.layer\.(\d+)\.attn\.([qkv])(?:uery|ey|alue)\.(\w+)": r"blocks.\1.attn.\2_proj.\3",
    r"encoder\.layer\.(\d+)\.attn\.out\.(\w+)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.ffn\.(fc[12])\.(\w+)": r"blocks.\1.mlp.\2.\3",
}

_AS_MLP = (
    "img_size",
    "patch_size",
    "embed_dim",
    "depths",
    "shift_size",
    "mlp_ratio",
    "as_bias",
    "num_classes",
)


@dataclass(frozen=True)
class Place:
    """A tensor of our model, or some rows of it."""

    name: str
    rows: slice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.rows is None else tensor[self.rows]


def build(backbone: dict[str, Any]) -> nn.Module:
    family = backbone.get("family", "vit")
    if family not in _BUILDERS:
        raise ValueError(f"no backbone is known for family '{family}'")
    return _BUILDERS[family](backbone)


def _vit(backbone: dict[str, Any]) -> nn.Module:
    options = {key: backbone[key] for key in _SAME if key in backbone}
    options |= {key: backbone[key] for key in _OPTIONAL if key in backbone}
    if backbone.get("layer_scale"):  # what it starts at does not matter: it is filled
        options.setdefault("init_values", 1.0)
    if "input_hw" in backbone:  # rectangular images
        options["img_size"] = tuple(backbone["input_hw"])
    options["global_pool"] = "avg" if averages(backbone) else "token"
    return VisionTransformer(**options, norm_layer=partial(LayerNorm, eps=backbone.get("norm_eps", 1e-6)))


def averages(backbone: dict[str, Any]) -> bool:
    """Whether the tokens of a ViT are averaged; goldens say it in words, under several names."""
    said = " ".join(str(backbone.get(key, "")) for key in ("global_pool", "pool", "pooling")).lower()
    return any(word in said for word in ("avg", "average", "mean", "gap"))


def _swin(backbone: dict[str, Any]) -> nn.Module:
    options = {key: backbone[key] for key in _SWIN}
    options |= {key: backbone[key] for key in ("in_chans", "qkv_bias") if key in backbone}
    if backbone.get("ape"):
        raise ValueError("Swin with an absolute position embedding is not known here")
    norm: Any = partial(LayerNorm, eps=backbone.get("norm_eps", 1e-5))
    model = SwinTransformer(**options, norm_layer=norm)
    if not backbone.get("patch_norm", True):
        model.patch_embed.norm = nn.Identity()
    return model


def _convnext(backbone: dict[str, Any]) -> nn.Module:
    model = ConvNeXt(
        num_classes=backbone["num_classes"],
        depths=tuple(backbone["depths"]),
        dims=tuple(backbone["dims"]),
        kernel_sizes=backbone.get("kernel", 7),
        patch_size=backbone["patch_size"],
        norm_eps=backbone["norm_eps"],
        ls_init_value=1.0 if backbone.get("layer_scale") else None,
    )
    # It takes any size; the one of the golden is the one to check it with.
    model.pretrained_cfg = {"input_size": (3, backbone["img_size"], backbone["img_size"])}  # type: ignore[assignment]
    return model


def _as_mlp(backbone: dict[str, Any]) -> nn.Module:
    return AsMlp(**{key: backbone[key] for key in _AS_MLP if key in backbone})


_BUILDERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "vit": _vit,
    "swin": _swin,
    "convnext": _convnext,
    "as_mlp": _as_mlp,
}


def observed(anatomy: Anatomy) -> dict[str, str]:
    """The names that goldens use for outputs of modules, and the paths of these."""
    features = {"timm-swin": "head.global_pool", "as-mlp": "head_drop", "timm-convnext": "norm_pre"}
    embed = "stem" if anatomy.family == "timm-convnext" else "patch_embed"
    modules = {"patch_embed": embed, "features": features.get(anatomy.family, "norm")}
    for block in anatomy.blocks:
        modules[f"block{block.index}"] = block.path
        inside = dict(anatomy.model.get_submodule(block.path).named_children())
        parts = [part for part in ("attn", "mlp", "axial_shift") if part in inside]
        modules |= {f"{part}{block.index}": f"{block.path}.{part}" for part in parts}
    return modules


def place(name: str, width: int, family: str = "vit") -> Place:
    """Where a reference keeps a weight of the plain backbone, in timm's names of today."""
    # The usual LoRA library wraps the model and the layers that it changes.
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    # KMnP/vpt has every backbone below `enc` and the classifier beside it.
    name = name.removeprefix("enc.").replace("head.last_layer.", "head.")
    if family == "swin":
        return Place(_swin_name(name))
    if family == "convnext":
        # timm's stem and downsampling are sequences today.
        name = re.sub(r"^stem\.(proj|norm)\.", lambda m: f"stem.{['proj', 'norm'].index(m[1])}.", name)
        between = r"^(stages\.\d+\.downsample)\.(norm|proj)\."
        return Place(re.sub(between, lambda m: f"{m[1]}.{['norm', 'proj'].index(m[2])}.", name))
    if name.startswith("transformer."):
        name = name.removeprefix("transformer.")
        matching = (
            re.sub(pattern, new, name) for pattern, new in _KMNP.items() if re.fullmatch(pattern, name)
        )
        name = next(matching, name)
    separate = re.fullmatch(r"(blocks\.\d+\.attn)\.([qkv])_proj\.(weight|bias)", name)
    if separate:
        start = "qkv".index(separate[2]) * width
        return Place(f"{separate[1]}.qkv.{separate[3]}", slice(start, start + width))
    on_block = re.fullmatch(r"(blocks\.\d+)\.(fc[12])\.(weight|bias)", name)
    return Place(f"{on_block[1]}.mlp.{on_block[2]}.{on_block[3]}") if on_block else Place(name)


def _swin_name(name: str) -> str:
    """Downsampling belongs to the stage behind it; the references keep it in the one before."""
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
    return re.sub(r"^head\.", "head.fc.", name)

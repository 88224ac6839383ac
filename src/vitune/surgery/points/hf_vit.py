"""The layers of transformers' vision transformers with points: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitune.surgery.points._base import AROUND, CONTEXT, POINTS, BlockWithPoints, Points, key_mask


class HFLayerWithPoints(BlockWithPoints):
    """A pre-norm layer of transformers, in the words of `Dinov2Layer`.

    Attributes:
        norm_names: Its norms in front of attention and MLP.
        scale_names: Its LayerScales, if it has any.
        drop_name: Its dropout or drop path behind both branches, if it has one.
    """

    points = (*POINTS, *AROUND, CONTEXT)
    attention_name = "attention"
    norm_names: ClassVar[tuple[str, str]] = ("norm1", "norm2")
    scale_names: ClassVar[tuple[str, ...]] = ()
    drop_name: ClassVar[str] = ""

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points
        norm1, norm2 = (getattr(self, name) for name in self.norm_names)
        scales = [getattr(self, name) for name in self.scale_names]
        attend = getattr(self, self.attention_name)

        def attention(x: Tensor, keys: Tensor | None = None) -> Tensor:
            z = p.through(p.attn_input, norm1(x))
            more = p.further(x, norm1)
            if keys is None:
                attended, _ = attend(z, *args, **kwargs, **more)
            else:
                mask = key_mask(keys, *args, kwargs.get("attention_mask"))
                if attend.config._attn_implementation == "eager":  # adds it to the scores
                    mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
                attended, _ = attend(z, **(kwargs | {"attention_mask": mask} | more))
            attended = p.through(p.attn_output, attended)
            return scales[0](attended) if scales else attended

        def mlp(h: Tensor) -> Tensor:
            mixed = p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, norm2(h))))
            return scales[1](mixed) if scales else mixed

        def drop(x: Tensor) -> Tensor:
            return getattr(self, self.drop_name)(x) if self.drop_name else x

        def layer(x: Tensor, keys: Tensor | None = None) -> Tensor:
            attended = drop(p.wrapped(p.attn_around, x, partial(attention, keys=keys)))
            h = p.through(p.middle, p.added(p.attn_beside, x, attended + x))
            mixed = drop(p.wrapped(p.mlp_around, h, mlp))
            return p.through(p.output, p.added(p.mlp_beside, h, mixed + h))

        return p.added(p.beside, hidden_states, p.wrapped(p.around, hidden_states, layer))


class HFViTLayerWithPoints(HFLayerWithPoints):
    """transformers' `ViTLayer` and `DeiTLayer`."""

    norm_names = ("layernorm_before", "layernorm_after")
    drop_name = "dropout"
    calls = (*norm_names, "attention", "mlp", "dropout")


class HFDinov2LayerWithPoints(HFLayerWithPoints):
    """transformers' `Dinov2Layer` and `Dinov2WithRegistersLayer`."""

    scale_names = ("layer_scale1", "layer_scale2")
    drop_name = "drop_path"
    calls = (*scale_names, "norm1", "norm2", "attention", "mlp", "drop_path")


class HFDinov3LayerWithPoints(BlockWithPoints):
    """transformers' `DINOv3ViTLayer`; no point around the attention, whose rotary positions need all rows."""

    points = (*POINTS, "mlp.around", CONTEXT)
    attention_name = "attention"
    any_tokens = False

    calls = HFDinov2LayerWithPoints.calls

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            mixed = p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.norm2(h))))
            return self.layer_scale2(mixed)

        x = hidden_states
        more = p.further(x, self.norm1)
        attended, _ = self.attention(p.through(p.attn_input, self.norm1(x)), *args, **kwargs, **more)
        attended = self.drop_path(self.layer_scale1(p.through(p.attn_output, attended)))
        h = p.through(p.middle, p.added(p.attn_beside, x, attended + x))
        mixed = self.drop_path(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, mixed + h))


class HFClipLayerWithPoints(HFLayerWithPoints):
    """transformers' `CLIPEncoderLayer` and `SiglipEncoderLayer`."""

    attention_name = "self_attn"
    any_tokens = False
    norm_names = ("layer_norm1", "layer_norm2")
    calls = (*norm_names, "self_attn", "mlp")


# transformers is optional; its layers are known by where they come from: (model's folder, class name).
FORWARDS = {
    ("vit", "ViTLayer"): HFViTLayerWithPoints,
    ("deit", "DeiTLayer"): HFViTLayerWithPoints,
    ("dinov2", "Dinov2Layer"): HFDinov2LayerWithPoints,
    ("dinov2_with_registers", "Dinov2WithRegistersLayer"): HFDinov2LayerWithPoints,
    ("dinov3_vit", "DINOv3ViTLayer"): HFDinov3LayerWithPoints,
    ("clip", "CLIPEncoderLayer"): HFClipLayerWithPoints,
    ("siglip", "SiglipEncoderLayer"): HFClipLayerWithPoints,
}

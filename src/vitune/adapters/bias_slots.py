"""Give the biases that folding made a place in the plain architecture.

A shift folded into a layer without bias makes one. Where the architecture has no switch for it, it can often be written
elsewhere with the same effect.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vitune.anatomy import Anatomy
from vitune.backbones import BackboneSource
from vitune.errors import SurgeryError


def with_bias_slots(found: Anatomy, source: BackboneSource, new_biases: set[str]) -> BackboneSource:
    """The architecture with a bias wherever folding made one, those moved that can go elsewhere.

    Args:
        found: The merged model; changed in place.
        source: How it was made.
        new_biases: Paths of layers that had no bias before and have one now.

    Raises:
        SurgeryError: If a bias has no place.
    """
    kwargs = dict(source.kwargs)
    left = new_biases - _patch_shift_moved(found, new_biases) - _key_shift_dropped(found, new_biases)
    fused = {path for path in left if path.endswith(".qkv")}
    if fused and source.library == "timm":
        kwargs |= _switches(found)
        for path in {o.path for o in found.operators if o.path.endswith(".qkv")} - fused:
            layer: Any = found.model.get_submodule(path)
            layer.bias = nn.Parameter(torch.zeros_like(layer.weight[:, 0]))  # the switch is for all blocks
        left -= fused
    if left:
        raise SurgeryError(
            f"the plain architecture has no bias at '{sorted(left)[0]}' to take up the shift of the edit there."
        )
    return BackboneSource(source.library, source.name, kwargs, source.weights)


def _patch_shift_moved(found: Anatomy, new_biases: set[str]) -> set[str]:
    """Pre-norm models (CLIP) embed patches without bias; position embeddings shift all patch tokens just as well."""
    model: Any = found.model
    path = found.operators[0].path
    if path not in new_biases:
        return set()
    if path == "patch_embed.proj" and getattr(model, "pos_embed", None) is not None:
        rows = model.pos_embed[:, 0 if model.no_embed_class else model.num_prefix_tokens :]
    elif path.endswith("embeddings.patch_embedding"):
        embeddings: Any = model.get_submodule(path.removesuffix(".patch_embedding"))
        rows = embeddings.position_embedding.weight[found.num_prefix_tokens :]
    else:
        return set()
    conv = model.get_submodule(path)
    with torch.no_grad():
        rows += conv.bias
    conv.register_parameter("bias", None)
    return {path}


def _key_shift_dropped(found: Anatomy, new_biases: set[str]) -> set[str]:
    """BEiT's keys have no bias: a shift of all keys adds the same to every score of a query, which softmax ignores."""
    keys = {o.path for o in found.operators if o.role.endswith(".attn.k")} & new_biases
    if found.family != "hf-beit":
        return set()
    for path in keys:
        found.model.get_submodule(path).register_parameter("bias", None)
    return keys


def _switches(found: Anatomy) -> dict[str, Any]:
    """timm's arguments that give a fused qkv a bias; EVA's own attention would leave out that of the keys."""
    return {"qkv_bias": True, "attn_type": "rope"} if found.family == "timm-eva" else {"qkv_bias": True}

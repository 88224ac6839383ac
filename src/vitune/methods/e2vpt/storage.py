"""Pruned prompts on disk: the values that survive, in order; the masks say where they belong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitune.methods.e2vpt.layers import MaskedPrompts, factors

if TYPE_CHECKING:
    from vitune.tuned import Tuned


def surviving(tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with the prompts under masks cut to what is not pruned, (k,), where anything is."""
    cut = dict(tensors)
    for name, keep in _kept(tuned, tensors):
        if tensors[name].shape == keep.shape and not keep.all():
            cut[name] = tensors[name][keep]
    return cut


def whole(tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: zeros where something was pruned, of which nothing depends."""
    filled = dict(tensors)
    for name, keep in _kept(tuned, tensors):
        values = tensors[name]
        if values.shape == (int(keep.sum()),):
            filled[name] = torch.zeros(keep.shape, dtype=values.dtype, device=values.device)
            filled[name][keep] = values
    return filled


def _kept(tuned: Tuned, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of prompts under masks that have pruned something, and which of their values count."""
    layers = {path: m for path, m in tuned.model.named_modules() if isinstance(m, MaskedPrompts)}
    if not layers or any(tensor.is_meta for tensor in tensors.values()):
        return  # weightless masks have pruned nothing
    first, layer = next(iter(layers.items()))  # what all layers share has its name there
    masks = {name: tensors.get(f"{first}.masks.{name}") for name in ("token", "segment", "pruned")}
    token, segment, pruned = masks["token"], masks["segment"], masks["pruned"]
    if token is None or segment is None or pruned is None or not bool(pruned):
        return
    if (token.shape, segment.shape) != (layer.masks.token.shape, layer.masks.segment.shape):
        return
    for path, layer in layers.items():
        name, shape = f"{path}.prompts", layer.prompts.shape
        if name in tensors:
            # A projection mixes the segments, so that whole tokens alone are out of use.
            if layer.project is not None:
                yield name, token.bool()[:, None].expand(shape)
            else:
                yield name, factors(token, segment, layer.masks.layout, shape[1]).bool()

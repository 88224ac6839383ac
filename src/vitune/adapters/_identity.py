"""Which backbone an adapter belongs to, told by the bytes of what it leaves frozen."""

from __future__ import annotations

import hashlib

import torch

from vitune.tuned import Tuned


def frozen_hash(tuned: Tuned) -> str:
    """SHA-256 over everything of the backbone that the adapter does not hold.

    Names go in as roles, so that a library that renames a layer does not change the hash. Floats go in as stored.

    Args:
        tuned: A tuned backbone, in any state of training: frozen tensors never change.
    """
    held = tuned.state().keys()
    # A head belongs to the task, never to the backbone, even where a method leaves a part of it out.
    heads = tuple(f"{path}." for path in tuned.anatomy.head)
    # Nor do new layers, whose shared tensors the state dict names once for each layer that has them.
    apart = heads + tuned._layer_paths()
    state = tuned.model.state_dict()
    # A tied parameter, such as an embedding that is the vocabulary's matrix too, has two names and is held under one.
    tied = {state[name].untyped_storage()._cdata for name in held & state.keys()}
    tensors = ((n, t) for n, t in state.items() if n not in held and t.untyped_storage()._cdata not in tied)
    frozen = {tuned.anatomy.role_of(n): t for n, t in tensors if not n.startswith(apart)}
    digest = hashlib.sha256()
    for name in sorted(frozen):
        tensor = frozen[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

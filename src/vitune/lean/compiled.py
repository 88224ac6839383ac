"""Levels under `torch.compile`: the same single operations are computed again, as marks on the traced graph.

By itself the compiler keeps most outputs of norms, activation functions and attention as well. Selective checkpointing
is how PyTorch takes marks: each operation of the forward pass is asked about while the graph is traced, and the
partitioner obeys. A level's matrix products are known by the module that they are traced in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.fx import traceback
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from vitune.lean.levels import CHEAP, draws_numbers

_aten = torch.ops.aten
# What is kept where the backward pass asks for it; without a word the compiler might keep both parts of a sum.
_KEPT = frozenset(
    (_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.add.Tensor, _aten.convolution.default)
)


def run(forward: Callable[..., Any], products: tuple[str, ...], args: Any, kwargs: Any) -> Any:
    """A forward pass whose operations are marked; called while it is traced.

    Args:
        forward: The forward pass.
        products: Paths of the modules whose matrix products are computed again.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    contexts = partial(create_selective_checkpoint_contexts, partial(mark, products))
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def mark(
    products: tuple[str, ...], context: Any, operation: Any, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    """Whether the output of a traced operation is kept.

    Args:
        products: As for `run`.
        context: Of selective checkpointing.
        operation: The operation.
        *args: Its arguments.
        **kwargs: Its keyword arguments.
    """
    # Attention has the tag of operations that draw numbers, with dropout or without.
    if operation not in CHEAP and torch.Tag.nondeterministic_seeded in operation.tags:
        return CheckpointPolicy.MUST_SAVE
    if draws_numbers(operation, args):
        return CheckpointPolicy.MUST_SAVE
    if operation in CHEAP or _is_view(operation) or (products and _is_inside(products)):
        return CheckpointPolicy.MUST_RECOMPUTE
    if operation is _aten.mul.Tensor and _both_need_gradients(args):
        return CheckpointPolicy.MUST_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_SAVE


def _both_need_gradients(tensors: Any) -> bool:
    """Whether autograd keeps both factors of a product anyway, as in `LevelPolicy`."""
    return all(isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in tensors)


def _is_view(operation: Any) -> bool:
    aliases = (returned.alias_info for returned in operation._schema.returns)
    return any(alias is not None and not alias.is_write for alias in aliases)


def _is_inside(products: tuple[str, ...]) -> bool:
    """Whether what is traced now belongs to one of the modules, or to an edit of it."""
    stack = traceback.get_current_meta().get("nn_module_stack") or {}
    here = f"{next(reversed(stack.values()))[0]}." if stack else ""
    return any(f".{path}." in here for path in products)

"""What each level computes again, as a policy over single operations."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vitune.ops.batch_draws import dropout_inside
from vitune.ops.low_rank import ADD_LOW_RANK
from vitune.ops.recompute import Recomputing
from vitune.ops.scale_shift_gelu import SCALE_SHIFT_GELU
from vitune.ops.shared_casts import SharedCasts

Level = Literal["stock", "fast", "lean", "leaner", "leanest"]
LEVELS: tuple[Level, ...] = get_args(Level)  # type: ignore[assignment]

# Short names of the roles whose matrix products a level computes again. A product frees its output for N D_in D_out
# multiply-accumulates; the last layer of an MLP would cost four times as much per byte and is never worth it.
PRODUCTS: dict[Level, tuple[str, ...]] = {
    "lean": ("mlp.in", "mlp.gate", "mlp.in_gate"),
    "leaner": ("mlp.in", "mlp.gate", "mlp.in_gate", "attn.qkv", "attn.q", "attn.k", "attn.v"),
}
# Adapters are computed again along with the product that they are added to: what has at most this inner width, and
# this many times fewer inner than outer channels.
LOW_RANK, NARROWING = 64, 8

_aten = torch.ops.aten


def _there(*names: str) -> frozenset[Any]:
    """The operations of these names that this release of torch has."""
    return frozenset(getattr(_aten, name).default for name in names if hasattr(_aten, name))


NORMS = _there("native_layer_norm", "_fused_rms_norm")
CHEAP = (
    NORMS
    | _there("gelu", "silu", "relu", "_to_copy", "addcmul")
    | _there(
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    | {SCALE_SHIFT_GELU}
)
_MATRIX = {
    _aten.mm.default: 1,
    _aten.addmm.default: 2,
}  # operation: which argument is the (D_in, D_out) matrix
PRODUCT_OPERATIONS = frozenset(_MATRIX)
_ADD, _CAT = _aten.add.Tensor, _aten.cat.default
# Entries taken from a tensor, or added to it: cheap, but worth it only where that tensor is there anyway.
_ENTRIES = {_aten.index_select.default, _aten.index_add.default}
# What is joined or multiplied may hold so small a part that has no recipe of its own.
SMALL_PART = 8
_MUL, _NEG = _aten.mul.Tensor, _aten.neg.default


CANDIDATES = CHEAP | _ENTRIES | {_ADD, ADD_LOW_RANK, _CAT, _MUL, _NEG, *_MATRIX}


class LevelPolicy:
    """The policy of a level on one model.

    Args:
        products: Weights whose products are computed again.
        casts: Tells which weight a tensor is a cast of, where they are shared.
    """

    def __init__(self, products: list[Tensor], casts: SharedCasts | None = None) -> None:
        self._products = {weight.untyped_storage()._cdata for weight in products}
        self._casts = casts

    def __call__(self, operation: Any, args: tuple[Any, ...], run: Recomputing) -> bool:
        """Whether the output of an operation need not be kept."""
        if operation in CHEAP:
            return not draws_numbers(operation, args)
        if operation is _ADD:
            return self._adds(args, run)
        if operation is _CAT:
            return self._joins(args[0], run)
        if operation is _MUL:
            return self._multiplies(args, run)
        if operation in (_NEG, ADD_LOW_RANK):
            return run.recipe_of(args[0]) is not None
        if operation in _ENTRIES:
            return run.recipe_of(args[0]) is not None or self._is_product(args[0], run)
        which = _MATRIX.get(operation)
        if which is None or not self._products:
            return False
        matrix = args[which]
        inner, outer = matrix.shape
        return inner <= min(LOW_RANK, outer // NARROWING) or self._is_product(matrix, run)

    def is_product_of_one(self, operation: Any, args: tuple[Any, ...], run: Recomputing) -> bool:
        """Whether an operation is the product of one of the weights."""
        which = _MATRIX.get(operation)
        return which is not None and self._is_product(args[which], run)

    def _is_product(self, matrix: Tensor, run: Recomputing) -> bool:
        """Whether a matrix is one of the weights, or what autocast or changed entries made of one."""
        storage = matrix.untyped_storage()._cdata if self._casts is None else self._casts.source_of(matrix)
        if storage in self._products:
            return True
        recipe = run.recipe_of(matrix)
        source = None if recipe is None else recipe.source()
        return source is not None and source.untyped_storage()._cdata in self._products

    @staticmethod
    def _joins(tensors: list[Tensor], run: Recomputing) -> bool:
        """Recipes joined with little else, such as further keys in front of those of the tokens."""
        total = sum(tensor.numel() for tensor in tensors)
        held = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() // tensor.element_size()
            for tensor in tensors
            if run.recipe_of(tensor) is None
        }
        return len(held) < len(tensors) and sum(held.values()) * SMALL_PART <= total

    @staticmethod
    def _multiplies(args: tuple[Any, ...], run: Recomputing) -> bool:
        """Products of two tensors that autograd keeps anyway, both for the other's gradient, such as a gate and what it
        lets through; and a recipe times another or little, such as the scale of an RMS norm or a rotation's cosines."""
        one, other = args
        if not isinstance(other, Tensor):
            return run.recipe_of(one) is not None
        if one.requires_grad and other.requires_grad:
            return True
        has_recipe = [run.recipe_of(tensor) is not None for tensor in (one, other)]
        if not any(has_recipe):
            return False
        total = torch.broadcast_shapes(one.shape, other.shape).numel()
        rest = [t for t, known in zip((one, other), has_recipe, strict=True) if not known]
        return all(t.untyped_storage().nbytes() * SMALL_PART <= total * t.element_size() for t in rest)

    @staticmethod
    def _adds(args: tuple[Any, ...], run: Recomputing) -> bool:
        """Sums of two recipes (a layer and its adapter), and the residual sum behind a scale-and-shift layer.

        A residual sum on top of a residual sum is kept, or each would have to be rebuilt from all before it.
        """
        one, other = run.recipe_of(args[0]), run.recipe_of(args[1])
        if one is not None and other is not None:
            return not _is_sum(one) and not _is_sum(other)
        alone = one or other
        if (
            alone is not None and alone.operation is _aten._to_copy.default
        ):  # half precision: rounded afterwards
            alone = alone.read()
        return alone is not None and alone.operation is _aten.addcmul.default


def _is_sum(recipe: Any) -> bool:
    return recipe.operation is _ADD


def draws_numbers(operation: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation is attention with dropout inside, which draws another mask the second time."""
    return bool(dropout_inside(operation, args))

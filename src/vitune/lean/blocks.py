"""Blocks that keep their input alone and run again in the backward pass, both times a part of the batch at a time.

The parts keep the peak low: what one block holds while it runs is there for a few images only. The kernels of a part
are those of a smaller batch, so outputs and gradients equal stock ones up to the order of sums. Run again, a block's
last product, which nobody reads any more, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from vitune.anatomy import Anatomy, short_name
from vitune.lean.last_block import as_then
from vitune.lean.levels import NORMS, PRODUCT_OPERATIONS, LevelPolicy
from vitune.ops.batch_draws import BatchDraws, DrawsOtherwiseError
from vitune.ops.deferred import MadeInSight
from vitune.ops.recompute import Recomputing
from vitune.ops.shared_casts import SharedCasts
from vitune.surgery import Edit, attach, detach, parts_of

KEY = "again"
# A batch runs in this many parts, or fewer: of at least this many tokens, as smaller products are slow on a CPU.
PARTS, TOKENS = 8, 768
# Arguments of transformers' blocks, by release, in which they collect keys and values.
_CACHES = ("cache", "past_key_values", "past_key_value")

_TENSOR = object()


class Again(nn.Module):
    """Marks a block that runs again.

    Args:
        unread: Names of the weights in the block whose products only make its output.
    """

    def __init__(self, unread: list[str]) -> None:
        super().__init__()
        self.unread = unread
        self.whole = False  # found out in the first forward pass


class RunAgain(Edit):
    """A block that keeps its input alone."""

    key = KEY

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the block."""
        trained = [p for p in self.parameters() if p.requires_grad]
        idle = not torch.is_grad_enabled() or not (trained or x.requires_grad)
        idle |= any(kwargs.get(name) is not None for name in _CACHES)  # a second run would add to it again
        if idle or not self.training or torch.compiler.is_compiling():
            return super().forward(x, *args, **kwargs)
        forward = as_then(self, super().forward)
        again: Again = self.vitune.again
        others = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        learnt = any(other.requires_grad for other in others)  # positions that all blocks share
        if not (again.whole or learnt or _looks_at_the_batch(self)):
            # What else comes in may belong to single images; then the batch stays whole.
            alone = not others
            unread = [self.get_parameter(name) for name in again.unread]
            draws = BatchDraws(len(x), x.device) if _drops(self) else None
            run = _Run(lambda y: forward(y, *args, **kwargs), list(self.parameters()))
            try:
                return run.output(_Again.apply(run, unread, alone, draws, x, *trained))
            except (DrawsOtherwiseError, _SeveralTensorsError):
                again.whole = True
                if draws:
                    draws.rewind()
        contexts = lambda: (nullcontext(), _statistics_untouched(self))  # noqa: E731
        return checkpoint(partial(forward, **kwargs), x, *args, use_reentrant=False, context_fn=contexts)


class _SeveralTensorsError(Exception):
    """A block gives more than the tokens."""


class _Run:
    """A block as a function from a tensor to a tensor, where it may wrap that one up."""

    def __init__(self, forward: Callable[[Tensor], Any], weights: list[nn.Parameter]) -> None:
        self._forward, self.weights = forward, weights
        self._leaves: list[Any] = []
        self._spec: TreeSpec | None = None

    def __call__(self, x: Tensor) -> Tensor:
        leaves, self._spec = tree_flatten(self._forward(x))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if len(tensors) != 1:
            raise _SeveralTensorsError
        self._leaves = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return tensors[0]

    def output(self, tensor: Tensor) -> Any:
        """What the block gives, with a tensor in it."""
        assert self._spec is not None
        return tree_unflatten([tensor if leaf is _TENSOR else leaf for leaf in self._leaves], self._spec)


def _drops(block: nn.Module) -> bool:
    """Whether a block drops anything, by the names that layers give their rates."""
    named = (item for module in block.modules() for item in vars(module).items())
    return any(
        isinstance(rate, float) and rate > 0 for name, rate in named if name == "p" or "drop" in name
    )  # `drop_prob`, `dropout`, `attention_dropout` ...


def _looks_at_the_batch(block: nn.Module) -> bool:
    """Whether a layer learns, chooses or draws something for the whole batch in a forward of training, by its kind or
    because it says so: in parts it would find others."""
    return any(
        _takes_statistics(module)
        or getattr(module, "decides", False)
        or getattr(module, "draws_numbers", False)
        for module in block.modules()
    )


def _takes_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.training


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """While a block runs again, its batch norms take the batch's statistics without adding them to their own twice."""
    norms = [module for module in block.modules() if _takes_statistics(module)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: b if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def _parts(x: Tensor, alone: bool) -> list[slice]:
    images, tokens = len(x), max(1, x[:1].numel() // x.shape[-1])
    size = max(-(-images // PARTS), -(-TOKENS // tokens)) if alone else max(1, images)
    return [slice(start, start + size) for start in range(0, images, size)]


def _draws_nothing(rows: slice) -> AbstractContextManager[None]:
    """The context of a part of a batch that draws nothing."""
    return nullcontext()


def _casts_of(run: _Run, autocast: bool) -> AbstractContextManager[SharedCasts | None]:
    """The context of all parts of a batch: what autocast makes of the weights is there once."""
    return SharedCasts(run.weights) if autocast else nullcontext()


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        run: _Run,
        unread: list[nn.Parameter],
        alone: bool,
        draws: BatchDraws | None,
        x: Tensor,
        *trained: nn.Parameter,
    ) -> Tensor:
        ctx.run, ctx.unread, ctx.alone, ctx.draws, ctx.trained = run, unread, alone, draws, trained
        ctx.save_for_backward(x)
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        with torch.no_grad():
            y, part_of = x.detach(), draws.first() if draws else _draws_nothing
            outputs = []
            with _casts_of(run, ctx.autocast[-1]):
                for rows in _parts(y, alone):
                    with part_of(rows):
                        outputs.append(run(y[rows]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        wants_input = ctx.needs_input_grad[4]
        input_gradients: list[Tensor] = []
        totals: list[Tensor | None] = [None] * len(ctx.trained)
        with (
            ctx.draws.again() if ctx.draws else nullcontext(_draws_nothing) as part_of,
            _casts_of(ctx.run, enabled) as casts,
        ):
            unread = LevelPolicy(ctx.unread, casts).is_product_of_one
            for rows in _parts(x, ctx.alone):
                part = x[rows].detach().requires_grad_(wants_input)
                inputs = [*([part] if wants_input else []), *ctx.trained]
                with (
                    torch.enable_grad(),
                    torch.autocast(device, dtype=dtype, enabled=enabled),
                    # A part is small and soon over: beside norms, nothing is worth making a third time.
                    Recomputing(LevelPolicy([]), NORMS | PRODUCT_OPERATIONS, unread),
                    part_of(rows),
                ):
                    end = get_gradient_edge(ctx.run(part))
                with MadeInSight():
                    found = list(torch.autograd.grad(end, inputs, gradient[rows], allow_unused=True))
                if wants_input:
                    input_gradients.append(found.pop(0))
                for i, one in enumerate(found):
                    if one is not None:
                        before = totals[i]
                        totals[i] = one if before is None else before.add_(one)
        return None, None, None, None, torch.cat(input_gradients) if wants_input else None, *totals


def run_blocks_again(anatomy: Anatomy) -> None:
    """Edit the blocks of a model.

    Args:
        anatomy: Of the model.
    """
    last = [operator.path for operator in anatomy.operators if short_name(operator.role) == "mlp.out"]
    for block in anatomy.blocks:
        start = f"{block.path}."
        unread = [f"{path.removeprefix(start)}.weight" for path in last if path.startswith(start)]
        attach(anatomy.model.get_submodule(block.path), RunAgain, Again(unread))


def run_blocks_once(anatomy: Anatomy) -> None:
    """Undo `run_blocks_again`."""
    for block in anatomy.blocks:
        module = anatomy.model.get_submodule(block.path)
        if RunAgain in parts_of(module)[1]:
            detach(module, RunAgain)

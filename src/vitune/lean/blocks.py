"""Blocks that keep their input alone and run again in the backward pass, both times a part of the batch at a time.

The parts keep the peak low: what one block holds while it runs is there for an eighth of the images only. The kernels
of a part are those of a smaller batch, so outputs and gradients equal stock ones up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from vitune.anatomy import Anatomy
from vitune.lean.levels import CANDIDATES, LevelPolicy
from vitune.ops.recompute import Recomputing
from vitune.surgery import Edit, attach, detach, parts_of

KEY = "memory"
PARTS = 8
# Arguments of transformers' blocks, by release, in which they collect keys and values.
_CACHES = ("cache", "past_key_values", "past_key_value")

Run = Callable[[Tensor], Tensor]


class Again(nn.Module):
    """Marks a block that runs again."""


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
        if _draws_numbers(self) or _decides(self):  # in parts it would draw or choose others
            return checkpoint(partial(super().forward, **kwargs), x, *args, use_reentrant=False)
        # What else comes in may belong to single images; then the batch stays whole.
        alone = not any(isinstance(value, Tensor) for value in tree_leaves((args, kwargs)))
        forward = super().forward
        return _Again.apply(lambda y: forward(y, *args, **kwargs), PARTS if alone else 1, x, *trained)


def _draws_numbers(block: nn.Module) -> bool:
    """Whether a block drops anything, by the names that layers give their rates, or has a layer that says it draws."""
    if any(getattr(module, "draws_numbers", False) for module in block.modules()):
        return True
    named = (item for module in block.modules() for item in vars(module).items())
    return any(
        isinstance(rate, float) and rate > 0 for name, rate in named if name == "p" or "drop" in name
    )  # `drop_prob`, `dropout`, `attention_dropout` ...


def _decides(block: nn.Module) -> bool:
    """Whether a layer learns or chooses something from the whole batch in a forward of training, and says so."""
    return any(getattr(module, "decides", False) for module in block.modules())


def _parts(x: Tensor, parts: int) -> list[slice]:
    size = -(-x.shape[0] // parts)
    return [slice(start, start + size) for start in range(0, x.shape[0], size)]


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, parts: int, x: Tensor, *trained: nn.Parameter) -> Tensor:
        ctx.run, ctx.parts, ctx.trained = run, parts, trained
        ctx.save_for_backward(x)
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        with torch.no_grad():
            y = x.detach()
            outputs = [run(y[rows]) for rows in _parts(y, parts)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        device, dtype, enabled = ctx.autocast
        wants_input = ctx.needs_input_grad[2]
        input_gradient = torch.empty_like(x) if wants_input else None
        totals: list[Tensor | None] = [None] * len(ctx.trained)
        for rows in _parts(x, ctx.parts):
            part = x[rows].detach().requires_grad_(wants_input)
            inputs = [*([part] if wants_input else []), *ctx.trained]
            with (
                torch.enable_grad(),
                torch.autocast(device, dtype=dtype, enabled=enabled),
                Recomputing(LevelPolicy([]), CANDIDATES),
            ):
                output = ctx.run(part)
            found = list(torch.autograd.grad(output, inputs, gradient[rows], allow_unused=True))
            del output
            if input_gradient is not None:
                input_gradient[rows] = found.pop(0)  # type: ignore[assignment]
            for i, one in enumerate(found):
                if one is not None:
                    before = totals[i]
                    totals[i] = one if before is None else before.add_(one)
        return None, None, input_gradient, *totals


def run_blocks_again(anatomy: Anatomy) -> None:
    """Edit the blocks of a model.

    Args:
        anatomy: Of the model.
    """
    for block in anatomy.blocks:
        attach(anatomy.model.get_submodule(block.path), RunAgain, Again())


def run_blocks_once(anatomy: Anatomy) -> None:
    """Undo `run_blocks_again`."""
    for block in anatomy.blocks:
        module = anatomy.model.get_submodule(block.path)
        if RunAgain in parts_of(module)[1]:
            detach(module, RunAgain)

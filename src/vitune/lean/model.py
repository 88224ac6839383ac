"""A model whose training steps keep what a level says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitune.anatomy import Anatomy, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.lean import compiled
from vitune.lean.blocks import run_blocks_again, run_blocks_once
from vitune.lean.last_block import Read, ReadTokensOnly, attention_weights, read_all_tokens, read_tokens_only
from vitune.lean.levels import CANDIDATES, PRODUCTS, Level, LevelPolicy
from vitune.ops.recompute import Recomputing
from vitune.surgery import Edit, attach, detach, layer_of, parts_of


class Memory(nn.Module):
    """What a training step does at a level.

    Args:
        level: The level.
        products: Names of the weights whose products it computes again.
        last_block: Path of the last block; empty where it runs for all tokens.
        settings: Keyword arguments of the model that a caller need not give.
        traced: Paths of the modules whose products a compiled step computes again; None: it is left to the compiler.
    """

    def __init__(
        self,
        level: Level,
        products: list[str],
        last_block: str,
        settings: dict[str, Any],
        traced: tuple[str, ...] | None,
    ) -> None:
        super().__init__()
        self.level: Level = level
        self.products, self.last_block, self.settings, self.traced = products, last_block, settings, traced


class LeanForward(Edit):
    """Runs training steps under the level's policy; evaluation and export are left alone."""

    key = "memory"
    passes_on = True

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the model."""
        memory: Memory = self.vitune.memory
        compiling = torch.compiler.is_compiling()
        traced = memory.traced
        if not self.training or not torch.is_grad_enabled() or (compiling and traced is None):
            return super().forward(*args, **kwargs)
        kwargs = {**memory.settings, **kwargs}
        if compiling and traced is not None:
            return compiled.run(super().forward, traced, args, kwargs)
        weights = [self.get_parameter(name) for name in memory.products]
        with Recomputing(LevelPolicy(weights), CANDIDATES), _reading(self, memory.last_block):
            return super().forward(*args, **kwargs)


@contextmanager
def _reading(model: nn.Module, last_block: str) -> Iterator[None]:
    """For as long as a training step takes, the last block runs for the tokens that the head reads."""
    read = layer_of(model.get_submodule(last_block), ReadTokensOnly) if last_block else Read(0)
    assert isinstance(read, Read)
    read.active = True
    try:
        yield
    finally:
        read.active = False


def memory_level(model: nn.Module) -> Level:
    """The level that `set_memory` chose; `stock` where it never did."""
    if LeanForward in parts_of(model)[1]:
        layer = layer_of(model, LeanForward)
        assert isinstance(layer, Memory)
        return layer.level
    return "leanest" if getattr(model, "_vitune_leanest", False) else "stock"


def set_memory(anatomy: Anatomy, level: Level, *, each_token_alone: bool = True) -> None:
    """Choose what a model's training steps keep.

    Args:
        anatomy: Of the model.
        level: One of `LEVELS`.
        each_token_alone: Whether all that was added to the model acts on each token alone, so that the last block may
            run for those tokens only which the head reads.

    Raises:
        UnsupportedBackboneError: If the model cannot recompute its blocks (`leanest`).
    """
    model = anatomy.model
    if LeanForward in parts_of(model)[1]:
        detach(model, LeanForward)
        read_all_tokens(anatomy)
        run_blocks_once(anatomy)
    elif memory_level(model) == "leanest":
        _recompute_blocks(model, False)
    if level == "stock":
        return
    if level == "leanest" and not (each_token_alone and anatomy.blocks):
        _recompute_blocks(model, True)
        return
    wanted = PRODUCTS.get(level, ())
    products = [f"{o.path}.weight" for o in anatomy.operators if short_name(o.role) in wanted]
    reads_some = each_token_alone and read_tokens_only(anatomy)
    if reads_some and level != "leanest":
        products += [name for name in attention_weights(anatomy) if name not in products]
    if level == "leanest":
        run_blocks_again(anatomy)
    last_block = anatomy.blocks[-1].path if reads_some else ""
    # A model of text would collect keys and values for generation, and twice where blocks run again.
    settings = {"use_cache": False} if anatomy.vocabulary else {}
    traced = (
        None
        if level == "leanest" or _changes_buffers(model)
        else tuple(operator.path for operator in anatomy.operators if short_name(operator.role) in wanted)
    )
    attach(model, LeanForward, Memory(level, products, last_block, settings, traced))


def _changes_buffers(model: nn.Module) -> bool:
    """Whether a step writes into buffers, which a graph that computes parts again must not do twice."""
    return any(isinstance(m, _BatchNorm) or getattr(m, "decides", False) for m in model.modules())


def _recompute_blocks(model: Any, on: bool) -> None:
    """Gradient checkpointing, always the non-reentrant kind.

    The reentrant kind gives no gradients at all where the input of a block needs none, as behind a frozen stem.
    """
    if hasattr(model, "gradient_checkpointing_enable"):
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
    elif hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(on)
    else:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} cannot recompute its blocks; use memory 'leaner' or less."
        )
    model._vitune_leanest = on

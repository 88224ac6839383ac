"""Starts of LoRA that take a part off the base weights: PiSSA, OLoRA, KaSA, CorDA, LoRA-GA.

PEFT writes the rest into the weights. Here the weights keep their bytes: what was taken off is kept as two thin
matrices beside PEFT's layer, and the layer that PEFT wraps computes as if it were gone. The same function, so the same
training; PEFT itself turns such adapters into LoRA by the same sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods.hf_peft.options import nested_defaults, plain
from vitune.surgery import Edit

_CHILD = "taken"
_OF = "_vitune_taken"
_STARTS = ("pissa", "olora", "corda", "lora_ga")
# Starts that look at data before the first step, and the setting that holds their details.
DATA_STARTS = {"eva": "eva_config", "corda": "corda_config", "lora_ga": "lora_ga_config"}
LINEAR_ONLY = ("eva", "corda")


def data_start(kind: str, options: Mapping[str, Any]) -> str | None:
    """The start that looks at data, one of `DATA_STARTS`, or None where the start is another.

    Args:
        kind: PEFT type.
        options: Settings of its config.
    """
    start = options.get("init_lora_weights")
    return start if kind == "LORA" and isinstance(start, str) and start in DATA_STARTS else None


def with_details(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with all details of a start that looks at data, those at their defaults too.

    Args:
        kind: PEFT type.
        options: Settings of its config.
    """
    given = dict(options)
    if (start := data_start(kind, given)) is not None:
        setting = DATA_STARTS[start]
        details = given.get(setting) or {}
        given[setting] = {**nested_defaults(kind, setting), **plain(details)}
    return given


def without_usual_details(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `with_details`: without what is at its default.

    Args:
        kind: PEFT type.
        options: Settings of its config.
    """
    given = dict(options)
    if (start := data_start(kind, given)) is not None:
        setting = DATA_STARTS[start]
        usual = nested_defaults(kind, setting)
        given[setting] = {name: value for name, value in given[setting].items() if value != usual[name]}
        if not given[setting]:
            del given[setting]
    return given


def takes_off(kind: str, options: Mapping[str, Any]) -> bool:
    """Whether a start takes something off the base weights.

    Args:
        kind: PEFT type.
        options: Settings of its config.
    """
    start = options.get("init_lora_weights")
    named = isinstance(start, str) and start.lower().startswith(_STARTS)
    return kind == "LORA" and (named or options.get("kasa_config") is not None)


class Taken(nn.Module):
    """What a start took off the weight of a linear layer: left (out, rank) times right (rank, in).

    Args:
        taken: The difference (out, in), of that rank at most.
        rank: The rank.
    """

    left: Tensor
    right: Tensor

    def __init__(self, taken: Tensor, rank: int) -> None:
        super().__init__()
        left, right = _factors(taken.detach(), rank)
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def difference(self) -> Tensor:
        """The whole of it, (out, in)."""
        return self.left @ self.right

    def forward(self, x: Tensor) -> Tensor:
        """What it contributes to the output of the layer, (..., out) of (..., in)."""
        return F.linear(F.linear(x, self.right), self.left)


def _factors(taken: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if not taken.is_meta and not taken.any():  # values that come later, from a file or from data
        return taken.new_zeros(len(taken), rank), taken.new_zeros(rank, taken.shape[1])
    # Differences of half-precision weights are rounded as those are; what is thin in them is the same.
    u, s, v = torch.linalg.svd(taken.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]).to(taken.dtype), v[:rank].to(taken.dtype)


class WithoutTaken(Edit):
    """The layer that PEFT wraps, as it is after the start: without what was taken off, in output and weight."""

    key = "taken"

    def forward(self, x: Tensor) -> Tensor:
        """As the layer below, less what was taken."""
        return super().forward(x) - self.__dict__[_OF](x)

    @property
    def weight(self) -> Tensor:
        """For those who read it: DoRA takes norms of its rows."""
        return self._parameters["weight"] - self.__dict__[_OF].difference()  # type: ignore[attr-defined]


def keep_taken(layer: nn.Module, before: Tensor, now: Tensor, rank: int) -> bool:
    """Keep what a start took off a weight beside PEFT's layer.

    Args:
        layer: PEFT's layer.
        before: The weight (out, in) as it was.
        now: As the start left it; the same tensor, or weightless, where values do not matter.
        rank: Of the difference.

    Returns:
        Whether the difference is of that rank, so that it could be kept.
    """
    if before.dim() != 2 or now.shape != before.shape:
        return False
    taken = Taken(before - now, rank)
    if not taken.left.is_meta:
        wide = torch.finfo(before.dtype).eps * 32 * float(torch.stack([before, now]).abs().max())
        if not torch.allclose(now + taken.difference(), before, rtol=0, atol=wide):
            return False
    layer.add_module(_CHILD, taken)
    return True


def taken_from(layer: nn.Module) -> Taken | None:
    """What a start took off the weight that a layer of PEFT wraps, if anything."""
    found = layer._modules.get(_CHILD)
    return found if isinstance(found, Taken) else None


def knows_taken(stand: nn.Module, taken: Taken) -> nn.Module:
    """Tell a stand-in with the edit `WithoutTaken` what was taken; no part of its tree of modules."""
    stand.__dict__[_OF] = taken
    return stand

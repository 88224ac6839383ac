"""What the gates of a DyT model do on images: decisions, activation rates, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitune.errors import ConfigError
from vitune.methods.dyt.dispatch import Dispatch, recorded
from vitune.methods.dyt.gate import Decision

if TYPE_CHECKING:
    from vitune.tuned import Tuned


def gates(tuned: Tuned) -> dict[str, Dispatch]:
    """The gates of a model by the role of their place, such as `blocks.3.mlp.around`, in order.

    Raises:
        ConfigError: If there is none.
    """
    found = {name: m for name, m in tuned.model.named_modules() if isinstance(m, Dispatch)}
    if not found:
        raise ConfigError("the model has no gates; apply the method 'dyt' to it.")
    roles = {}
    for path, gate in found.items():
        block, _, place = path.partition(".vitune.points.")
        point = place.rpartition(".")[0].replace("_", ".")
        roles[f"{tuned.anatomy.role_of(block)}.{point}"] = gate
    return roles


def decisions(tuned: Tuned, images: Tensor) -> dict[str, Decision]:
    """What every gate decides about the patch tokens of images, by role; in evaluation mode.

    Args:
        tuned: A model with DyT.
        images: (B, channels, height, width).

    Raises:
        ConfigError: If the model has no gates.
    """
    found = gates(tuned)
    with torch.no_grad(), _evaluating(tuned.model), recorded(found.values()) as notes:
        tuned(images)
    return {role: note[-1] for role, note in zip(found, notes, strict=True)}


def kept_tokens(tuned: Tuned, images: Tensor) -> dict[str, Tensor]:
    """Which patch tokens (B, N) of images every gate keeps, by role; in evaluation mode.

    Args:
        tuned: A model with DyT.
        images: (B, channels, height, width).

    Raises:
        ConfigError: If the model has no gates.
    """
    return {role: decision.mask > 0.5 for role, decision in decisions(tuned, images).items()}


def activation_rates(tuned: Tuned, batches: Iterable[Tensor]) -> dict[str, float]:
    """The share of patch tokens that every gate keeps, over all images, by role; in evaluation mode.

    It can differ from the rate that training aimed at, which is a mean over noisy decisions.

    Args:
        tuned: A model with DyT.
        batches: Images (B, channels, height, width).

    Raises:
        ConfigError: If the model has no gates, or there are no images.
    """
    kept: dict[str, int] = {}
    seen: dict[str, int] = {}
    for images in batches:
        for role, tokens in kept_tokens(tuned, images).items():
            kept[role] = kept.get(role, 0) + int(tokens.sum())
            seen[role] = seen.get(role, 0) + tokens.numel()
    if not seen:
        raise ConfigError("no images were given, so there are no activation rates.")
    return {role: kept[role] / seen[role] for role in seen}


def picture_record(tuned: Tuned, images: Tensor) -> Mapping[str, Any]:
    """What `vitune.report.pictures.kept_patches` draws, as JSON values: which patches of images every gate keeps.

    Args:
        tuned: A model with DyT, whose gates see the patches of one grid.
        images: (B, channels, height, width).

    Raises:
        ConfigError: If the model has no gates.
    """
    kept = kept_tokens(tuned, images)
    return {
        "when": "evaluation",
        "grid": list(tuned.anatomy.grid),
        "layers": [
            {"role": role, "kept": ["".join("01"[int(token)] for token in row) for row in tokens.tolist()]}
            for role, tokens in kept.items()
        ],
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """While entered, the model is in evaluation mode; afterwards every module is in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

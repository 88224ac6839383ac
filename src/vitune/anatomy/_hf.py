"""What transformers' vision encoders have in common, and how to find it in every release.

Names of layers changed between releases (`attention.attention.query` became `attention.q_proj`), so a role has several
candidates and the first one that is there plays it. transformers is optional: a class is known by its name and by the
module it comes from, and nothing is imported to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.errors import UnsupportedBackboneError

Candidates = Mapping[str, tuple[str, ...]]

LAYER: Candidates = {
    "norm1": ("layernorm_before", "norm1", "layer_norm1"),
    "attn.q": ("attention.q_proj", "self_attn.q_proj", "attention.attention.query", "attention.self.query"),
    "attn.k": ("attention.k_proj", "self_attn.k_proj", "attention.attention.key", "attention.self.key"),
    "attn.v": ("attention.v_proj", "self_attn.v_proj", "attention.attention.value", "attention.self.value"),
    "attn.out": ("attention.o_proj", "self_attn.out_proj", "attention.output.dense"),
    "norm2": ("layernorm_after", "norm2", "layer_norm2"),
    "mlp.gate": ("mlp.gate_proj",),
    "mlp.in": ("mlp.fc1", "mlp.up_proj", "intermediate.dense"),
    "mlp.in_gate": ("mlp.weights_in",),
    "mlp.out": ("mlp.fc2", "mlp.down_proj", "mlp.weights_out", "output.dense"),
}
"""Role to places inside a layer, in the order of the forward pass."""

OPTIONAL = ("mlp.gate", "mlp.in", "mlp.in_gate")  # an MLP has one or two of them
ATTENTION = ("attention", "self_attn")


def is_one_of(model: nn.Module, folder: str, *classes: str) -> bool:
    """Whether a model is of one of the named classes of transformers' models, or derived from one."""
    home = f"transformers.models.{folder}.modeling_{folder}"
    return any(cls.__module__ == home and cls.__name__ in classes for cls in type(model).__mro__)


def has(model: nn.Module, path: str) -> bool:
    """Whether there is a module at a path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def first(model: nn.Module, *paths: str) -> str:
    """The first path with a module.

    Raises:
        UnsupportedBackboneError: If there is none.
    """
    for path in paths:
        if has(model, path):
            return path
    raise UnsupportedBackboneError(
        f"{type(model).__name__} of this transformers release is laid out differently: "
        f"looked for a layer at {' or '.join(repr(path) for path in paths)}."
    )


def base_of(model: nn.Module, *names: str) -> str:
    """Path of the encoder with a dot behind it, empty where the model itself is the encoder."""
    return next((f"{name}." for name in names if has(model, name)), "")


def layer_operators(model: nn.Module, role: str, path: str, names: Candidates = LAYER) -> list[Operator]:
    """The operators of one layer.

    Args:
        model: The model.
        role: Role of the layer, for instance `blocks.0`.
        path: Its path.
        names: Places by role.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    found = []
    for name, places in names.items():
        paths = [f"{path}.{place}" for place in places]
        if name in OPTIONAL and not any(has(model, p) for p in paths):
            continue
        parts = (f"{role}.mlp.gate", f"{role}.mlp.in") if name == "mlp.in_gate" else ()
        found.append(operator(model, f"{role}.{name}", first(model, *paths), parts=parts))
    return found


def describe_encoder(
    model: nn.Module,
    family: str,
    base: str,
    *,
    config: Any,
    before: list[Operator],
    after: list[Operator],
    num_prefix_tokens: int,
    pooling: str,
    unused: tuple[str, ...] = (),
    layers: tuple[str, ...] = ("layers", "encoder.layer", "encoder.layers", "model.layer", "layer"),
) -> Anatomy:
    """Describe an encoder of equal layers.

    Args:
        model: The model.
        family: Name of the family.
        base: Path of the encoder with a dot behind it, or empty.
        config: The encoder's part of the configuration.
        before: Operators in front of the layers.
        after: Operators behind them.
        num_prefix_tokens: Tokens in front of the patch tokens.
        pooling: How tokens become one vector.
        unused: Places of parameters that the output does not depend on; those that are not there are left out.
        layers: Where the layers may be.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    stack = first(model, *(f"{base}{name}" for name in layers))
    operators, blocks = list(before), []
    for i in range(len(model.get_submodule(stack))):  # type: ignore[arg-type]
        here = f"{stack}.{i}"
        operators += layer_operators(model, f"blocks.{i}", here)
        attention = first(model, *(f"{here}.{name}" for name in ATTENTION))
        blocks.append(Block(i, here, config.hidden_size, config.num_attention_heads, attention))
    names = {name for name, _ in model.named_parameters()}
    return Anatomy(
        family=family,
        model=model,
        operators=(*operators, *after),
        blocks=tuple(blocks),
        head=heads(model),
        width=config.hidden_size,
        num_prefix_tokens=num_prefix_tokens,
        grid=grid_of(config),
        input_size=(config.num_channels, *pair(config.image_size)),
        pooling=pooling,
        unused=tuple(path for path in unused if has(model, path) or path in names),
    )


def heads(model: nn.Module) -> tuple[str, ...]:
    """The classifiers of a model."""
    names = ("classifier", "cls_classifier", "distillation_classifier")
    return tuple(name for name in names if isinstance(getattr(model, name, None), nn.Linear))


def pair(size: Any) -> tuple[int, int]:
    """Height and width of what a configuration gives as one number or two."""
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return int(height), int(width)


def grid_of(config: Any) -> tuple[int, int]:
    """Patches along height and width."""
    size, patch = pair(config.image_size), pair(config.patch_size)
    return size[0] // patch[0], size[1] // patch[1]

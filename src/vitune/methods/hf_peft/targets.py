"""Which layers a PEFT config means: by our roles, or by names as PEFT matches them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitune.anatomy import ALL_LINEAR, Anatomy, Operator, short_name
from vitune.errors import NothingMatchedError, UnsupportedBackboneError, did_you_mean

# Where a config names no layers: what the papers adapt, by type.
_DEFAULTS = {"IA3": ("attn.k", "attn.v", "mlp.out"), "LN_TUNING": ("*norm*",)}
_USUAL = ("attn.q", "attn.v")
# Names that transformers gave its layers before release 5, and that configs written for it use.
_FORMER = {"query": "attn.q", "key": "attn.k", "value": "attn.v"}


def targets(found: Anatomy, kind: str, options: Mapping[str, Any]) -> list[Operator]:
    """The layers to adapt, in the order of the forward pass.

    Args:
        found: The backbone.
        kind: PEFT type.
        options: Settings of its config; `target_modules`, `exclude_modules` and `layers_to_transform` are read.

    Raises:
        NothingMatchedError: If a name matches nothing, or nothing is left.
        UnsupportedBackboneError: If a name means the head, rows of a layer, or what is no layer.
    """
    wanted = options.get("target_modules")
    if wanted is None:
        chosen = _by_default(found, _DEFAULTS.get(kind, _USUAL))
    else:
        chosen = named(found, wanted, "target_modules")
    if excluded := options.get("exclude_modules"):
        chosen -= named(found, excluded, "exclude_modules")
    layers = options.get("layers_to_transform")
    if layers is not None:
        numbers = {layers} if isinstance(layers, int) else set(layers)
        chosen = {path for path in chosen if _block(found, path) in numbers}
    if not chosen:
        raise NothingMatchedError(
            "peft: no layer is left to adapt after exclude_modules and layers_to_transform; let them leave some."
        )
    return [operator for operator in found.operators if operator.path in chosen]


def named(found: Anatomy, names: str | Sequence[str], setting: str) -> set[str]:
    """Paths of the layers that names stand for: a regular expression, or a list of roles and names of modules.

    Raises:
        NothingMatchedError: If a name matches nothing.
        UnsupportedBackboneError: If a name means the head, rows of a layer, or what is no layer.
    """
    if isinstance(names, str) and names != ALL_LINEAR:
        paths = [path for path, _ in found.model.named_modules() if path and re.fullmatch(names, path)]
        return _layers(found, paths, names, setting)
    listed = [names] if isinstance(names, str) else names
    return set().union(*(_one(found, name, setting) for name in listed))


def of_roles(found: Anatomy, pattern: str) -> set[str]:
    """Paths of whole layers that a role pattern names; empty where it names none.

    Raises:
        UnsupportedBackboneError: If it names rows of a layer.
    """
    try:
        slots = found.find([pattern])
    except NothingMatchedError:
        return set()
    for slot in slots:
        if slot.rows is not None:
            whole = short_name(slot.operator.role)
            raise UnsupportedBackboneError(
                f"peft: '{pattern}' is rows of the fused layer '{whole}' in this {found.family} backbone, and PEFT "
                f"adapts whole layers; name '{whole}', or use our lora, which adapts rows."
            )
    return {slot.operator.path for slot in slots}


def _one(found: Anatomy, name: str, setting: str) -> set[str]:
    if paths := of_roles(found, name):
        return paths
    every = [path for path, _ in found.model.named_modules()]
    paths = [path for path in every if path == name or path.endswith(f".{name}")]
    if not paths and name in _FORMER:
        return of_roles(found, _FORMER[name])
    return _layers(found, paths, name, setting)


def _layers(found: Anatomy, paths: Iterable[str], name: str, setting: str) -> set[str]:
    known = {operator.path for operator in found.operators if operator.kind != "identity"}
    paths = list(paths)
    if not paths:
        ends = {path.rpartition(".")[2] for path in known} | {short_name(o.role) for o in found.operators}
        raise NothingMatchedError(
            f"peft: {setting} names '{name}', which is no role and no module of this {found.family} backbone. "
            f"{did_you_mean(name, ends)}"
        )
    for path in paths:
        if any(f"{path}.".startswith(f"{head}.") for head in found.head):
            raise UnsupportedBackboneError(
                f"peft: {setting} names '{name}', which is the head; the head always trains as it is, leave it out."
            )
        if path not in known:
            raise UnsupportedBackboneError(
                f"peft: {setting} names '{name}', and '{path}' is a {type(found.model.get_submodule(path)).__name__}, "
                f"not a layer of this {found.family} backbone that can be edited; name linear layers, convolutions "
                f"or norms."
            )
    return set(paths)


def _by_default(found: Anatomy, roles: Sequence[str]) -> set[str]:
    """Whole layers that play these roles, fused ones included."""
    try:
        slots = [slot for role in roles for slot in found.find([role])]
    except NothingMatchedError:
        raise NothingMatchedError(
            f"peft: this {found.family} backbone has no {', '.join(roles)}, so name the layers: target_modules=..., "
            f"as 'vitune show --model NAME' names them."
        ) from None
    return {slot.operator.path for slot in slots if slot.operator.kind != "identity"}


def _block(found: Anatomy, path: str) -> int | None:
    role = found.role_of(path)
    return int(role.split(".")[1]) if role.startswith("blocks.") else None

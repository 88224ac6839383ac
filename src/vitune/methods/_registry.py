"""The table of methods: ours, and those other packages bring under the entry point group `vitune.methods`."""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points
from typing import TypeVar

from vitune.errors import NothingMatchedError, did_you_mean
from vitune.methods._base import Method

ENTRY_POINTS = "vitune.methods"

# Settings of other libraries as methods: module and class, loaded when asked for by name.
BRIDGES = {"peft": ("vitune.methods.hf_peft", "Peft")}

_METHODS: dict[str, type[Method]] = {}

MethodClass = TypeVar("MethodClass", bound=type[Method])


def register(method: MethodClass) -> MethodClass:
    """Add a method to the table; usable as a class decorator.

    Raises:
        ValueError: If its name is taken by another class.
    """
    other = _METHODS.get(method.name)
    if other is not None and other is not method:
        raise ValueError(
            f"two methods are called '{method.name}': {other.__qualname__} and {method.__qualname__}"
        )
    _METHODS[method.name] = method
    return method


@functools.cache
def _load_entry_points() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        register(entry.load())


def all_methods() -> dict[str, type[Method]]:
    """Every method by name, in the order of the table."""
    _load_entry_points()
    return dict(_METHODS)


def get_method(name: str) -> type[Method]:
    """The method of a name, bridges included; a hyphen will do for an underscore.

    Raises:
        NothingMatchedError: If there is none; names the nearest.
    """
    methods = all_methods()
    if name in BRIDGES:
        module, cls = BRIDGES[name]
        return getattr(importlib.import_module(module), cls)
    if name not in methods and name.replace("-", "_") in methods:
        name = name.replace("-", "_")
    if name not in methods:
        raise NothingMatchedError(f"no method '{name}'. {did_you_mean(name, [*methods, *BRIDGES])}")
    return methods[name]

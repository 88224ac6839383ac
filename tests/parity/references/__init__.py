"""What the references call things, one file per method, found by the `method` metadata of a golden.

A file has `case(golden)` for goldens of kind `model`, and `KINDS`, from any other kind to a function that checks a
golden of that kind and returns what `tests.parity.harness.compare` returns.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def known() -> set[str]:
    """Methods that have a file."""
    return {module.name for module in pkgutil.iter_modules(__path__)}


def find(method: str) -> ModuleType:
    """The file of a method."""
    if method not in known():
        raise ValueError(f"nothing is known about method '{method}'")
    return importlib.import_module(f"{__name__}.{method}")


def methods_of(name: str) -> set[str]:
    """The methods that a file is about: those it lists as `METHODS`, or the one of its name."""
    return set(getattr(find(name), "METHODS", (name,)))

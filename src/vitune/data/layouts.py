"""Is a data set there? What the published layouts on disk lack, in sentences, before anything is run on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitune.data import cifar_binary, domains, few_shot, folder, imagenet_layouts, json_lists, vtab
from vitune.errors import ConfigError, did_you_mean


def _missing_digits(path: Path) -> list[str]:
    if find_spec("sklearn") is not None:
        return []
    return ["the digits are those of scikit-learn, which is not installed: pip install 'vitune[demo]'."]


_CHECKS: dict[str, Callable[..., list[str]]] = {
    "folder": folder.missing,
    "vtab": vtab.missing,
    "few-shot": few_shot.missing,
    "json-lists": json_lists.missing,
    "cifar-binary": cifar_binary.missing,
    "domains": domains.missing,
    "imagenet": imagenet_layouts.missing_train,
    **{
        name: partial(imagenet_layouts.missing_variant, name=name)
        for name in ("imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-sketch", "imagenet-c")
    },
    "digits": _missing_digits,
}
LAYOUTS = tuple(_CHECKS)


def missing(layout: str, path: Path, **options: Any) -> list[str]:
    """What a data set lacks to be used, one sentence each; none if all is there.

    Args:
        layout: One of `LAYOUTS`.
        path: Where it is.
        **options: What is expected of it: `classes` ("folder", "json-lists", "cifar-binary", "domains"), `domains`
            ("domains"), `shots` and `seeds` ("few-shot").

    Raises:
        ConfigError: If the layout is unknown, or an option is not one of that layout's.
    """
    if layout not in _CHECKS:
        raise ConfigError(f"there is no layout '{layout}'. {did_you_mean(layout, LAYOUTS)}")
    check = _CHECKS[layout]
    known = [
        name
        for name, parameter in inspect.signature(check).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "name"
    ]
    for name in options:
        if name not in known:
            offered = f"it has: {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"the layout '{layout}' has no option '{name}'; {offered}.")
    return check(path, **options)

"""Telling how a model was made, and making it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from timm.models import is_model_pretrained
from torch import nn

from vitune.backbones.source import BackboneSource

_ATTRIBUTE = "vitune_source"

TASKS = ("ForImageClassification", "ForSequenceClassification", "ForCausalLM")
"""Endings of transformers' classes that can be made again; the first stands in where a record names none of them."""


def set_source(model: nn.Module, source: BackboneSource) -> None:
    """Record on a model where it came from, as `model.vitune_source`.

    Args:
        model: The model.
        source: Where it came from.
    """
    setattr(model, _ATTRIBUTE, source)


def describe_source(model: nn.Module) -> BackboneSource | None:
    """How a model was made.

    Args:
        model: A model that `create` made, or one straight from timm or transformers; of the latter two it is
            unknown with which weights.

    Returns:
        The source, or None where it cannot be told: a model whose class was called directly, or arguments
        that are not JSON values.
    """
    known = getattr(model, _ATTRIBUTE, None)
    if isinstance(known, BackboneSource):
        return known
    timm_config = getattr(model, "pretrained_cfg", None)
    if isinstance(timm_config, dict) and timm_config.get("architecture"):
        return _timm_source(model, timm_config)
    # Of transformers only classifiers and language models are made again; a bare encoder has other parts.
    is_made_again = any(task in type(model).__name__ for task in TASKS)
    if is_made_again and hasattr(model, "config"):
        return hf_source(model, str(getattr(model.config, "name_or_path", "")), None)
    return None


def rebuild(
    source: BackboneSource, num_classes: int, *, weights: Path | None = None, pretrained: bool = True
) -> nn.Module:
    """Make the architecture of a source again, with the same weights where they can be had.

    Args:
        source: How the backbone was made.
        num_classes: Classes of the new classifier.
        weights: A weight file in place of what the source names.
        pretrained: Whether to load weights at all.

    Returns:
        The model. Weights that were random are random again, and not the same ones.

    Raises:
        ConfigError: If the weights are gone, cannot be downloaded or do not fit.
        NothingMatchedError: If the installed library does not know the name.
    """
    from vitune.backbones.create import create

    if weights is None and pretrained and source.weights not in (None, "pretrained", "random"):
        weights = Path(source.weights)
    wanted = pretrained and source.weights != "random"
    if source.library == "timm":
        return create(
            source.name, num_classes=num_classes, weights=weights, pretrained=wanted, **dict(source.kwargs)
        )
    from vitune.backbones.hf import rebuild_hf

    return rebuild_hf(source, num_classes, weights=weights, pretrained=wanted)


def hf_source(model: Any, name: str, weights: str | None) -> BackboneSource:
    """The source of a transformers model.

    Args:
        model: The model.
        name: Its hub id or folder, or "" for one made from a configuration alone.
        weights: As in `BackboneSource`.
    """
    settings = json.loads(model.config.to_json_string(use_diff=False))
    # A model type may have several classifiers (DeiT has two); the configuration of one made by hand names none.
    settings["architectures"] = [type(model).__name__]
    return BackboneSource("transformers", name, settings, weights)


def _timm_source(model: nn.Module, config: dict[str, Any]) -> BackboneSource | None:
    # What timm.create_model was called with; it is kept by timm since 1.0.31.
    arguments = getattr(model, "_model_args", None)
    if arguments is None:
        return None
    kwargs = {key: value for key, value in arguments.items() if key not in ("num_classes", "pretrained_cfg")}
    if not _is_json(kwargs):
        return None
    tag = config.get("tag")
    name = f"{config['architecture']}.{tag}"
    # Architectures without weights carry the tag 'untrained', which is no name of weights.
    return BackboneSource("timm", name if is_model_pretrained(name) else config["architecture"], kwargs, None)


def _is_json(values: dict[str, Any]) -> bool:
    try:
        json.dumps(values)
    except TypeError:
        return False
    return True

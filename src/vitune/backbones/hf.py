"""Models of transformers, which is an optional dependency: image classifiers, and from a record also models of text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from vitune._extras import require
from vitune.backbones.describe import TASKS, hf_source, set_source
from vitune.backbones.hub import quick_hub
from vitune.backbones.messages import download_failed
from vitune.backbones.source import BackboneSource
from vitune.backbones.weight_files import load_weights
from vitune.errors import ConfigError


def create_hf(name: str, num_classes: int, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """An image classifier by hub id or folder.

    Args:
        name: Hub id or folder.
        num_classes: Classes of the classifier; it starts anew where the weights have another.
        pretrained: Whether to load the weights.
        kwargs: Settings of the model's configuration to change.

    Raises:
        ConfigError: If transformers is missing, the model cannot be fetched, or a setting does not fit the
            weights.
    """
    if "img_size" in kwargs:
        raise ConfigError(
            f"The image size of the transformers model '{name}' stands in its own configuration; "
            "leave img_size out, or take a timm model."
        )
    transformers = _transformers()
    try:
        with quick_hub():
            config = transformers.AutoConfig.from_pretrained(name)
    except Exception as error:  # no network shows as any of a dozen classes, by transport and cache state
        raise ConfigError(download_failed(name, error)) from error
    for key, value in kwargs.items():
        if not hasattr(config, key):
            raise ConfigError(f"The transformers model '{name}' has no setting '{key}'.")
        setattr(config, key, value)
    config.num_labels = num_classes
    if not pretrained:
        return _from_config(config)
    return _from_pretrained(name, config)


def rebuild_hf(
    source: BackboneSource, num_classes: int, *, weights: Path | None, pretrained: bool
) -> nn.Module:
    """Make a transformers model again from its configuration.

    Args:
        source: The source, with the whole configuration.
        num_classes: Classes of the new classifier.
        weights: A weight file in place of the hub's.
        pretrained: Whether to load weights.

    Raises:
        ConfigError: If the weights cannot be had or do not fit.
    """
    settings = dict(source.kwargs)
    kind = settings.pop("model_type", "")
    try:
        config = _transformers().AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise ConfigError(f"This version of transformers has no model of type '{kind}'.") from error
    named = next(iter(settings.get("architectures") or ()), "")
    task = next((ending for ending in TASKS if named.endswith(ending)), TASKS[0])
    if task != "ForCausalLM":  # which has no classes
        config.num_labels = num_classes
    if pretrained and weights is None and source.name:
        model, origin = _from_pretrained(source.name, config, task), "pretrained"
    else:
        model, origin = _from_config(config, task), "random"
    if weights is not None:
        load_weights(model, weights)
        origin = str(weights.resolve())
    set_source(model, hf_source(model, source.name, origin))
    return model


def _transformers() -> Any:
    return require("transformers", "hf", "A model of the transformers library")


def _from_config(config: Any, task: str = TASKS[0]) -> nn.Module:
    try:
        return getattr(_transformers(), f"AutoModel{task}").from_config(config)
    except ValueError as error:
        raise ConfigError(_no_such(task, config)) from error


def _no_such(task: str, config: Any) -> str:
    kind = "image classifier" if task == TASKS[0] else f"model {task}"
    return f"transformers has no {kind} of type '{config.model_type}'."


def _from_pretrained(name: str, config: Any, task: str = TASKS[0]) -> nn.Module:
    auto = getattr(_transformers(), f"AutoModel{task}")
    if type(config) not in auto._model_mapping:
        raise ConfigError(_no_such(task, config))
    try:
        with quick_hub():
            model, report = auto.from_pretrained(
                name, config=config, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except Exception as error:  # as above
        raise ConfigError(download_failed(name, error)) from error
    # transformers fills what is missing or has another shape with random numbers, and only logs it.
    broken = [*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])]
    broken = [key for key in broken if not key.startswith(("classifier", "score"))]
    if broken:
        raise ConfigError(
            f"The weights of '{name}' do not fit its configuration at '{sorted(broken)[0]}'; "
            "leave the settings that change shapes as they are."
        )
    return model

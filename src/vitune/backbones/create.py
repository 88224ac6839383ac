"""Making a backbone by name, from timm, transformers or this package."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vitune.backbones import registered as registered  # registers the built-in backbone with timm
from vitune.backbones.card import BUILT_IN
from vitune.backbones.describe import hf_source, set_source
from vitune.backbones.hf import create_hf
from vitune.backbones.hub import quick_hub
from vitune.backbones.messages import download_failed, sentence
from vitune.backbones.source import BackboneSource
from vitune.backbones.weight_files import load_weights
from vitune.errors import ConfigError, NothingMatchedError, did_you_mean

_HF_PREFIX = "hf:"
_TIMM_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:", "timm/")


def create(
    name: str | None,
    *,
    num_classes: int,
    weights: Path | None = None,
    pretrained: bool = True,
    img_size: int | tuple[int, int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Make a backbone with a classifier for `num_classes`.

    Args:
        name: A timm name, perhaps with a tag; a Hugging Face hub id or model folder, with or without `hf:`
            before it; None for the built-in backbone.
        num_classes: Classes of the classifier, which starts anew unless the weights have one for as many; 0
            for none.
        weights: A weight file to load in place of what the name stands for.
        pretrained: Whether to load the weights that the name stands for.
        img_size: Height and width of the images, where they differ from the architecture's.
        **kwargs: Further arguments of the architecture.

    Returns:
        The model in training mode, on the CPU; `vitune.backbones.describe_source` tells how it was made.

    Raises:
        NothingMatchedError: If there is no such name.
        ConfigError: If an argument or the weights do not fit, or the weights cannot be downloaded.
    """
    name = name or BUILT_IN
    if num_classes < 0:
        raise ConfigError(f"num_classes is {num_classes}; it must be 0 (no classifier) or more.")
    if img_size is not None:
        kwargs["img_size"] = img_size
    origin = "random" if not pretrained else "pretrained"
    if weights is not None:
        weights = Path(weights)
        origin = str(weights.resolve())
    if _is_timm(name):
        model = _create_timm(name, num_classes, pretrained and weights is None, kwargs)
        source = BackboneSource("timm", name, kwargs, origin)
    else:
        hub_name = _hf_name(name)
        model = create_hf(hub_name, num_classes, pretrained and weights is None, kwargs)
        source = hf_source(model, hub_name, origin)
    if weights is not None:
        load_weights(model, weights)
    set_source(model, source)
    return model


def _is_timm(name: str) -> bool:
    if name.startswith(_HF_PREFIX):
        return False
    return name.startswith(_TIMM_PREFIXES) or timm.is_model(name.split(".")[0])


def _hf_name(name: str) -> str:
    if name.startswith(_HF_PREFIX):
        return name.removeprefix(_HF_PREFIX)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise NothingMatchedError(
                f"The folder {folder} is no model: it has no config.json. Name one that transformers saved."
            )
        return name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name  # what a hub id looks like; whether there is one, the hub knows
    hint = did_you_mean(name, timm.list_models())
    if hint.startswith("Known:"):
        hint = "See `vitune list` for names, or name a Hugging Face hub id (OWNER/NAME) or a model folder."
    raise NothingMatchedError(f"There is no model '{name}'. {hint}")


def _create_timm(name: str, num_classes: int, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    _check_tag(name)
    if name.startswith("timm/"):
        name = f"hf-hub:{name}"
    online = quick_hub() if pretrained or ":" in name else nullcontext()
    try:
        with online:
            try:
                return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs)
            except TypeError as error:
                if "'img_size'" not in str(error):
                    raise
                kwargs = _any_size(kwargs)
                return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **kwargs)
    except TypeError as error:
        raise ConfigError(f"The model '{name}' does not take these arguments: {error}.") from error
    except Exception as error:  # no network shows as any of a dozen classes, by transport and cache state
        if pretrained:
            raise ConfigError(download_failed(name, error)) from error
        raise ConfigError(f"timm cannot make '{name}' with {kwargs}: {sentence(error)}") from error


def _any_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a convolutional network, which takes images of any size: only its preprocessing has one."""
    size = kwargs["img_size"]
    height, width = (size, size) if isinstance(size, int) else size
    rest = {key: value for key, value in kwargs.items() if key != "img_size"}
    return {**rest, "pretrained_cfg_overlay": {"input_size": (rest.get("in_chans", 3), height, width)}}


def _check_tag(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not tag or not timm.is_model(architecture):
        return
    known = timm.list_pretrained(f"{architecture}.*")
    if name not in known:
        raise NothingMatchedError(f"'{architecture}' has no weights '{tag}'. {did_you_mean(name, known)}")

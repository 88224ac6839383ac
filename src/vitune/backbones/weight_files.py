"""Weights from a file the user names: safetensors, PyTorch (weights only) or the .npz of Google's ViTs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from torch import Tensor, nn

from vitune.backbones.messages import sentence
from vitune.errors import ConfigError

_STATE_DICT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into a freshly made model, in place.

    The position and patch embedding of a timm ViT are resized to the model's; the classifier is left as it is
    where the file has none or one for other classes.

    Args:
        model: A timm model or a transformers image classifier.
        path: A `.safetensors`, `.pth`, `.pt`, `.bin` or (timm only) `.npz` file.

    Raises:
        ConfigError: If there is no such file, it cannot be read, or does not fit the model.
    """
    if not path.is_file():
        raise ConfigError(f"There is no weight file {path}; give a .safetensors, .npz or .pth file.")
    if path.suffix == ".npz":
        _load_npz(model, path)
        return
    if path.suffix not in _STATE_DICT_SUFFIXES:
        raise ConfigError(
            f"The weight file {path} is of an unknown kind '{path.suffix}'; "
            f"known: {', '.join(_STATE_DICT_SUFFIXES)}, .npz."
        )
    state = _fitted(model, read_state_dict(path), path)
    own = model.state_dict()
    classifier = classifier_keys(model)
    for name in list(state):
        if name in classifier and (name not in own or own[name].shape != state[name].shape):
            del state[name]
    missing = [name for name in own if name not in state and name not in classifier]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has {_listed(unexpected)} that the model lacks"] if unexpected else []
        raise ConfigError(f"The weight file {path} does not fit the model: it {' and '.join(parts)}.")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ConfigError(
                f"The weight file {path} does not fit the model: '{name}' has shape {tuple(tensor.shape)} "
                f"in it and {tuple(own[name].shape)} in the model."
            )
    model.load_state_dict(state, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or PyTorch file; of a training checkpoint those of its model.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or holds something else than tensors.
    """
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # each format has errors of its own, and all mean the same to the user
        raise ConfigError(
            f"The weight file {path} cannot be read ({sentence(error)}); "
            "it must hold tensors alone, as safetensors or as a PyTorch state dict."
        ) from error
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"The weight file {path} holds '{name}', which is not a tensor, but {value!r:.40}."
            )
    return state


def classifier_keys(model: nn.Module) -> frozenset[str]:
    """State-dict keys of the classifier.

    Args:
        model: A timm model or a transformers image classifier.
    """
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or "classifier"
    names = (names,) if isinstance(names, str) else names
    return frozenset(f"{name}.{part}" for name in names for part in ("weight", "bias"))


def _load_npz(model: Any, path: Path) -> None:
    if not hasattr(model, "load_pretrained"):
        raise ConfigError(
            f"{type(model).__name__} cannot load the .npz file {path}; give a .safetensors or .pth file."
        )
    try:
        model.load_pretrained(str(path))
    except Exception as error:  # timm indexes the archive and copies, so that a misfit shows in many ways
        raise ConfigError(
            f"The weight file {path} does not fit {type(model).__name__} ({sentence(error)})."
        ) from error


def _fitted(model: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state as timm's own loader of that architecture maps it: renamed, and embeddings resized."""
    to_model = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if to_model is None:
        return dict(state)
    try:
        return dict(to_model(state, model))
    except Exception as error:  # a mapping that meets other weights fails in any way
        raise ConfigError(
            f"The weight file {path} does not fit {type(model).__name__} ({sentence(error)})."
        ) from error


def _listed(names: Iterable[str], shown: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"'{name}'" for name in names[:shown]) + more

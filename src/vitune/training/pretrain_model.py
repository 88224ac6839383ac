"""The model of a pre-training run: made by timm, perhaps started from other weights, saved as fp16."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import timm
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vitune.backbones import create
from vitune.durable import replace_file
from vitune.errors import ConfigError, NothingMatchedError, RunError, did_you_mean
from vitune.training.pretrain_config import PretrainConfig

WEIGHTS_FILE = "weights.safetensors"


def build_model(config: PretrainConfig, num_classes: int) -> nn.Module:
    """The architecture of a run, with random weights or those of `init_from`.

    Args:
        config: Architecture, its arguments, image size and where to start from.
        num_classes: Classes of the data.

    Returns:
        The model, on the CPU. A classifier for other classes starts anew; patch and position embedding are
        resized.

    Raises:
        NothingMatchedError: If timm has no such architecture.
        ConfigError: If timm refuses the arguments, or the weights do not fit.
        RunError: If there is nothing at `init_from`.
    """
    if not timm.is_model(config.arch):
        hint = did_you_mean(config.arch, timm.list_models())
        if hint.startswith("Known:"):
            hint = "`vitune list` shows those there are."
        raise NothingMatchedError(f"timm has no architecture '{config.arch}'. {hint}")
    weights = None if config.init_from is None else weights_file(config.init_from)
    make = partial(create, config.arch, num_classes=num_classes, weights=weights, pretrained=False)
    try:
        return make(**{"img_size": config.image_size, **config.model_args})
    except ConfigError as error:
        if "unexpected keyword argument 'img_size'" not in str(error):
            raise
        # Convolutional networks take images of any size and have no such argument.
        return make(**config.model_args)


def weights_file(path: Path) -> Path:
    """The weight file that a run directory or a path names.

    Args:
        path: A run directory, or a file.

    Raises:
        RunError: If there is none.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise RunError(
            f"There are no weights to start from at {file}; name a run of vitune pretrain or a file."
        )
    return file


def save_weights(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Write a state dict in half precision, atomically.

    Args:
        state: The state dict.
        path: The file.

    Returns:
        What was written: floating-point tensors rounded to fp16, on the CPU.

    Raises:
        RunError: If the file cannot be written.
    """
    rounded = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in state.items()
    }
    try:
        replace_file(path, lambda temporary: save_file(rounded, temporary, metadata={"format": "pt"}))
    except (OSError, SafetensorError) as error:
        raise RunError(f"The weights {path} cannot be written ({error}); free some space there.") from error
    return rounded

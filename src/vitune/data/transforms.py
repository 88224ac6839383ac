"""From a picture to the tensor that a backbone takes, by timm's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vitune.data.preprocessing import Preprocessing
from vitune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

AugmentName = Literal["none", "light", "strong", "crop", "erase", "rand"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images; the defaults are the preset "light".

    Args:
        random_crop: Crop a random part of random size and shape; otherwise the whole image is squashed to
            size.
        crop_pct: With `random_crop`, crop a square of one size instead, at a random place: the resized image's shorter
            side times this.
        scale: Least and greatest share of the area that a crop keeps.
        ratio: Least and greatest width over height of a crop.
        flip: Probability of a left-right flip.
        auto_augment: A policy in timm's spelling ("rand-m9-mstd0.5-inc1"), or None.
        erase: Probability that a random rectangle is replaced by noise.
    """

    random_crop: bool = True
    crop_pct: float | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    auto_augment: str | None = None
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name, greatest in (("scale", 1.0), ("ratio", math.inf)):
            value = getattr(self, name)
            if not isinstance(value, Sequence) or len(value) != 2 or not 0 < value[0] <= value[1] <= greatest:
                bounds = "0 < low <= high" + (" <= 1" if name == "scale" else "")
                raise ConfigError(f"augment: {name} must be (low, high) with {bounds}, not {value}.")
            object.__setattr__(self, name, tuple(value))  # JSON gives lists
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ConfigError(f"augment: crop_pct must be above 0 and at most 1, not {self.crop_pct}.")
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"augment: {name} must be a probability in 0..1, not {getattr(self, name)}."
                )

    @classmethod
    def preset(cls, name: str) -> AugmentConfig:
        """The settings of a name.

        Args:
            name: "none": resize to the exact square, as VTAB-1k trains. "light": random resized crop and
                flip. "erase": beside that random erasing. "strong": beside that RandAugment of magnitude 9.
                "crop": resize the shorter side to 256 for a size of 224, crop at random and flip, as VPT trains on
                FGVC. "rand": resize to the exact square, RandAugment of magnitude 9 and flip, as SCT trains on VTAB-1k.

        Raises:
            ConfigError: If the name is unknown.
        """
        if name not in _PRESETS:
            raise ConfigError(f"there is no augmentation '{name}'. {did_you_mean(str(name), _PRESETS)}")
        return _PRESETS[name]


_RAND = "rand-m9-mstd0.5-inc1"
_PRESETS = {
    "none": AugmentConfig(random_crop=False, flip=0.0),
    "light": AugmentConfig(),
    "strong": AugmentConfig(auto_augment=_RAND, erase=0.25),
    "crop": AugmentConfig(crop_pct=0.875),
    "erase": AugmentConfig(erase=0.25),
    "rand": AugmentConfig(random_crop=False, auto_augment=_RAND),
}


def build_transform(
    preprocessing: Preprocessing, *, train: bool, augment: AugmentName | AugmentConfig = "light"
) -> Callable[[Image.Image], Tensor]:
    """The transform from an RGB picture to a normalised float32 tensor of shape (3, height, width).

    Args:
        preprocessing: What the backbone wants. For evaluation nothing else counts, so that an adapter
            evaluates alike wherever it is loaded; a run that trains with "none" stores
            `preprocessing.exact_square()`.
        train: Augment for training; otherwise resize and crop as `preprocessing` says.
        augment: A preset's name or settings of your own; used in training only.

    Returns:
        A picklable callable. In training it draws from Python's, numpy's and torch's global generators.

    Raises:
        ConfigError: If the preset or the policy of `auto_augment` is unknown.
    """
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import Compose

    config = augment if isinstance(augment, AugmentConfig) else AugmentConfig.preset(augment)
    common: dict[str, Any] = {
        "input_size": preprocessing.input_size,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    # create_transform is annotated as one big union; which member comes back follows from what is asked for.
    create: Callable[..., Any] = create_transform
    if not train:
        return create(**common, crop_pct=preprocessing.crop_pct, crop_mode=preprocessing.crop_mode)
    try:
        crop_and_flip, policy, to_tensor = create(
            **common,
            is_training=True,
            scale=config.scale,
            ratio=config.ratio,
            hflip=config.flip,
            color_jitter=None,
            auto_augment=config.auto_augment,
            re_prob=config.erase,
            re_mode="pixel",
            separate=True,
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(
            f"augment: timm knows no policy '{config.auto_augment}' (auto_augment); "
            f"write one such as 'rand-m9-mstd0.5-inc1', 'augmix-m3-w3' or 'original'."
        ) from error
    any_size = config.random_crop and config.crop_pct is None
    return Compose(
        [crop_and_flip if any_size else _resize_and_flip(preprocessing, config), policy, to_tensor]
    )


def _resize_and_flip(
    preprocessing: Preprocessing, config: AugmentConfig
) -> Callable[[Image.Image], Image.Image]:
    """Squash to size, or crop of one size at a random place; then flip."""
    from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, Resize

    size = preprocessing.input_size[1:]
    interpolation: Any = str_to_interp_mode(preprocessing.interpolation)
    steps: list[Any]
    if config.random_crop and config.crop_pct is not None:
        larger = tuple(math.ceil(side / config.crop_pct) for side in size)
        steps = [ResizeKeepRatio(larger, interpolation=preprocessing.interpolation), RandomCrop(size)]
    else:
        steps = [Resize(size, interpolation=interpolation)]
    return Compose([*steps, RandomHorizontalFlip(config.flip)] if config.flip else steps)

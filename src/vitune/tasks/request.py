"""What a user asks of `train`, and how it is written to the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitune.errors import ConfigError, did_you_mean
from vitune.training.config import TrainConfig

NORMALISATIONS: dict[str, dict[str, tuple[float, float, float]]] = {
    "backbone": {},
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "inception": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "none": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
}


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images are and how they are split; see `vitune.data.open_source`.

    Args:
        path: Folder or file with the data.
        train_split: What to train on.
        val_fraction: Share of the training images held out where the data have no validation split.
        split_seed: Seed of that choice; apart from the training seed, so that seeds are compared on one split.
        image_column: Column with the images, of a table.
        label_column: Column with the labels, of a table.
        on_bad_image: "error", or "skip" to leave broken images out.
        cache: Whether to keep decoded images in memory; "auto" if they are small.
        shots: Train on so many images of each class; None is all.
        shot_seed: Seed of that choice, apart from the training seed: all methods that are compared share the images.
        normalise: Mean and std that are taken from pixels in [0, 1]: the "backbone"'s own, "imagenet" (0.485, 0.456,
            0.406 and 0.229, 0.224, 0.225), "inception" (0.5 and 0.5), or "none".
        interpolation: Filter that images are resized with; none is the backbone's own.
        crop_pct: Share of the resized image that evaluation's centre crop keeps; none is the backbone's own.
        test_domain: The domain to test on, where the folders of the data are domains; none where they are not.
        train_domains: The domains to train on; none is all but the tested one.
    """

    path: Path
    train_split: str = "train"
    val_fraction: float = 0.2
    split_seed: int = 0
    image_column: str | None = None
    label_column: str | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    cache: Literal["auto"] | bool = "auto"
    shots: int | None = None
    shot_seed: int = 0
    normalise: Literal["backbone", "imagenet", "inception", "none"] = "backbone"
    interpolation: str | None = None
    crop_pct: float | None = None
    test_domain: str | None = None
    train_domains: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.train_domains is not None:  # JSON has lists
            object.__setattr__(self, "train_domains", tuple(self.train_domains))

    def opening(self) -> dict[str, Any]:
        """The arguments of `open_source`, but for the path."""
        names = ("train_split", "val_fraction", "image_column", "label_column", "on_bad_image")
        names += ("shots", "shot_seed", "test_domain", "train_domains")
        return {**{name: getattr(self, name) for name in names}, "seed": self.split_seed}

    def looks(self) -> dict[str, Any]:
        """What overrides the backbone's own preprocessing, as fields of `vitune.data.Preprocessing`.

        Raises:
            ConfigError: If the normalisation is unknown.
        """
        if self.normalise not in NORMALISATIONS:
            raise ConfigError(
                f"normalise is '{self.normalise}'. {did_you_mean(str(self.normalise), NORMALISATIONS)}"
            )
        looks: dict[str, Any] = dict(NORMALISATIONS[self.normalise])
        if self.interpolation is not None:
            looks["interpolation"] = self.interpolation
        if self.crop_pct is not None:
            looks["crop_pct"] = self.crop_pct
        return looks


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which backbone; see `vitune.backbones.create`.

    Args:
        name: Its name; None is the built-in one.
        weights: A weight file to load in place of what the name stands for.
        pretrained: Whether to load the weights that the name stands for.
        img_size: Height and width of the images, where they differ from the architecture's.
    """

    name: str | None = None
    weights: Path | None = None
    pretrained: bool = True
    img_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """All that decides a run.

    Args:
        data: The data.
        model: The backbone.
        method: Methods as text, for instance `lora(rank=4),bitfit`.
        training: How to train.
        init_modules: A file of pre-trained modules of the method to start from; see `vitune.adapters.load_modules`.
        out: The run directory; None is a new one below `runs/`.
        final_test: Whether to open the test split once, at the very end.
        tensorboard: Whether to write TensorBoard files too.
        store_bits: Round the matrices of new layers to 1, 2, 4 or 8 bits at the end, before the model is measured and
            saved; None does not.
        command: The command line, as it is to be shown in the report.
    """

    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    method: str = "linear"
    training: TrainConfig = field(default_factory=TrainConfig)
    init_modules: Path | None = None
    out: Path | None = None
    final_test: bool = False
    tensorboard: bool = False
    store_bits: int | None = None
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON values, but for the run directory."""
        return {
            "data": _plain(self.data),
            "model": _plain(self.model),
            "method": self.method,
            "training": self.training.to_dict(),
            "init_modules": None if self.init_modules is None else str(self.init_modules),
            "final_test": self.final_test,
            "tensorboard": self.tensorboard,
            "store_bits": self.store_bits,
            "command": self.command,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, out: Path | None = None) -> TrainRequest:
        """The inverse of `to_dict`.

        Args:
            values: What `to_dict` gave.
            out: The run directory.

        Raises:
            ConfigError: If a setting is unknown, missing or not allowed.
        """
        known = [name for name in _names(cls) if name != "out"]
        _refuse_unknown("setting", values, known)
        data = dict(values.get("data") or {})
        _refuse_unknown("data setting", data, _names(DataSettings))
        if "path" not in data:
            raise ConfigError("The configuration names no data; give data.path.")
        model = dict(values.get("model") or {})
        _refuse_unknown("model setting", model, _names(ModelSettings))
        if model.get("weights") is not None:
            model["weights"] = Path(model["weights"])
        modules = values.get("init_modules")
        rest = {name: values[name] for name in known if name in values}
        return cls(
            **{
                **rest,
                "data": DataSettings(**{**data, "path": Path(data["path"])}),
                "model": ModelSettings(**model),
                "training": TrainConfig.from_dict(values.get("training") or {}),
                "init_modules": None if modules is None else Path(modules),
                "out": out,
            }
        )


def _plain(settings: Any) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _refuse_unknown(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(f"There is no {what} '{name}'. {did_you_mean(name, known)}")

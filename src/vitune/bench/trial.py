"""One trial: everything that decides its result, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vitune.errors import ConfigError, RunError

Stage = Literal["select", "final"]
STAGES = ("select", "final")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What is tried. Two trials are equal if all of this is.

    Attributes:
        data: Name of the data set, the same on every machine (not a path).
        model: Name of the backbone.
        methods: The methods as the command line spells them, for instance `lora(rank=4),bitfit`.
        settings: Everything else that training is told, as JSON values.
        seed: Seed of all randomness.
        protocol: Name of the protocol the trial belongs to.
        stage: `select` trials choose settings and have no test split; `final` ones open it once.
        train_split: What is trained on, as the data reader spells it.
    """

    data: str
    model: str
    methods: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    protocol: str
    stage: Stage
    train_split: str = "train"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"Trial: unknown stage '{self.stage}'; use 'select' or 'final'.")
        try:
            plain = _plain(self.settings)
            json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"Trial: the settings must be finite JSON values, got {self.settings}: {error}"
            ) from None
        # A copy: the caller's mapping may change later, the trial must not.
        object.__setattr__(self, "settings", plain)

    @property
    def id(self) -> str:
        """Name of the trial's folder: readable words and a hash of all fields."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        words = "-".join(
            re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in (self.data, self.methods)
        )
        return f"{words[:48]}-{self.stage}-s{self.seed}-{digest}"

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Trial:
        """The trial whose `as_dict` this is.

        Raises:
            RunError: If the fields are not those of a trial.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            raise RunError(
                f"Not the description of a trial ({error}); found the keys {sorted(fields)}."
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, with 1.0 as 1: equal settings must get equal names."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a key is not a string")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value

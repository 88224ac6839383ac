"""Where a backbone came from: enough to make the same one again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vitune.errors import AdapterError

Library = Literal["timm", "transformers"]


@dataclass(frozen=True)
class BackboneSource:
    """How a backbone was made.

    Args:
        library: The library that makes it.
        name: For timm the architecture, with its tag where the weights have one; for transformers a hub id or
            folder.
        kwargs: For timm the arguments of the architecture, without `num_classes`; for transformers the whole
            configuration of the model.
        weights: Where the weights came from: "pretrained" (what the name stands for), "random", the path of a
            file, or None where that is unknown.
    """

    library: Library
    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The source as JSON values."""
        return {
            "library": self.library,
            "name": self.name,
            "kwargs": dict(self.kwargs),
            "weights": self.weights,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneSource:
        """The inverse of `to_dict`.

        Args:
            values: What `to_dict` gave.

        Raises:
            AdapterError: If something is missing or of the wrong kind.
        """
        name, kwargs, weights = values.get("name"), values.get("kwargs", {}), values.get("weights")
        if values.get("library") not in get_args(Library) or not isinstance(name, str):
            raise AdapterError(
                f"the backbone's description {dict(values)!r} does not say the library (timm or "
                "transformers) and the name; give the model yourself."
            )
        if not isinstance(kwargs, Mapping) or not isinstance(weights, str | None):
            raise AdapterError(
                f"the description of the backbone '{name}' has kwargs or weights of the wrong kind; "
                "give the model yourself."
            )
        return cls(values["library"], name, dict(kwargs), weights)

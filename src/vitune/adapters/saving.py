"""Save an adapter that needs nothing but itself and the backbone's published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from vitune import __version__
from vitune.adapters import _files
from vitune.adapters._identity import frozen_hash
from vitune.backbones import describe_source
from vitune.errors import AdapterError
from vitune.tuned import Tuned


def save(
    tuned: Tuned,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors`, then read them back and compare.

    Args:
        tuned: What to save: trained tensors, head, buffers of new layers, method settings and state.
        path: A directory; other files in it are left alone.
        class_names: Names of the classes in the order of the logits; what `tuned` knows if not given.
        preprocessing: timm data configuration; what `tuned` knows if not given.
        extra: Further JSON values to keep with it.

    Returns:
        The directory.

    Raises:
        AdapterError: If the class names do not fit the head, or the files cannot be written.
    """
    names = tuple(class_names) if class_names is not None else tuned.class_names
    classes = num_classes(tuned)
    if names is not None and classes is not None and len(names) != classes:
        raise AdapterError(f"{len(names)} class names are given for a head of {classes} classes.")
    tensors: dict[str, Tensor] = {tuned.anatomy.role_of(n): t for n, t in tuned.state().items()}
    policies = []
    for i, policy in enumerate(tuned.policies):
        state = policy.state_dict()
        tensors |= {f"policy.{i}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        policies.append({key: value for key, value in state.items() if not isinstance(value, Tensor)})
    source = describe_source(tuned.model)
    config = {
        "methods": [{"name": method.name, "settings": method.settings()} for method in tuned.methods],
        "backbone": None if source is None else source.to_dict(),
        "family": tuned.anatomy.family,
        "frozen_sha256": frozen_hash(tuned),
        "num_classes": classes,
        "class_names": None if names is None else list(names),
        "preprocessing": dict(preprocessing) if preprocessing is not None else tuned.preprocessing,
        "policies": policies,
        "versions": {"vitune": __version__, **{name: version(name) for name in ("torch", "timm")}},
        "extra": dict(extra or {}),
    }
    _files.write(Path(path), config, tensors)
    return Path(path)


def num_classes(tuned: Tuned) -> int | None:
    """Rows of the head, or None where there is no head."""
    if not tuned.anatomy.head:
        return None
    return int(tuned.model.get_submodule(tuned.anatomy.head[0]).out_features)  # type: ignore[arg-type]

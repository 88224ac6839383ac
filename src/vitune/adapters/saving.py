"""Save an adapter that needs nothing but itself and the backbone's published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from vitune import __version__
from vitune.adapters import _files, low_bit
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
    store_bits: int | None = None,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors`, then read them back and compare.

    Args:
        tuned: What to save: trained tensors, head, buffers of new layers, method settings and state.
        path: A directory; other files in it are left alone.
        class_names: Names of the classes in the order of the logits; what `tuned` knows if not given.
        preprocessing: timm data configuration; what `tuned` knows if not given.
        extra: Further JSON values to keep with it.
        store_bits: Round the matrices of new layers to 1, 2, 4 or 8 bits in the file, whatever method they are of;
            32 stores them in full. If not given, as they came: in full, or as they were loaded or rounded.

    Returns:
        The directory.

    Raises:
        AdapterError: If the class names do not fit the head, or the files cannot be written.
        ConfigError: If `store_bits` is out of range, or there is nothing to round.
    """
    names = tuple(class_names) if class_names is not None else tuned.class_names
    classes = num_classes(tuned)
    if names is not None and classes is not None and len(names) != classes:
        raise AdapterError(f"{len(names)} class names are given for a head of {classes} classes.")
    stored, stored_bits = low_bit.split(tuned, store_bits)
    state = {name: tensor for name, tensor in tuned.state().items() if name not in stored}
    for method in tuned.methods:
        state = method.stored(tuned, state)
    tensors: dict[str, Tensor] = {tuned.anatomy.role_of(name): tensor for name, tensor in state.items()}
    tensors |= low_bit.blob(tuned, stored)
    policies = []
    for i, policy in enumerate(tuned.policies):
        state = policy.state_dict()
        tensors |= {f"policy.{i}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
        policies.append({key: value for key, value in state.items() if not isinstance(value, Tensor)})
    source = describe_source(tuned.model)
    config = {
        "peft_type": "VITUNE",  # for `vitune.interop.peft_bridge`
        "methods": [{"name": method.name, "settings": method.settings()} for method in tuned.methods],
        "backbone": None if source is None else source.to_dict(),
        "family": tuned.anatomy.family,
        "frozen_sha256": frozen_hash(tuned),
        "num_classes": classes,
        "class_names": None if names is None else list(names),
        "preprocessing": dict(preprocessing) if preprocessing is not None else tuned.preprocessing,
        "policies": policies,
        "store_bits": stored_bits,
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

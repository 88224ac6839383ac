"""Load an adapter: the one way back from disk to a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitune.adapters import _files, hub, low_bit
from vitune.adapters._identity import frozen_hash
from vitune.backbones import BackboneSource, rebuild
from vitune.errors import AdapterError, VituneError
from vitune.methods import Method, get_method
from vitune.tuned import Tuned, apply


def load(path: str | Path, *, model: nn.Module | None = None, weights: str | Path | None = None) -> Tuned:
    """Load what `Tuned.save` wrote.

    Args:
        path: The directory of an adapter, or of a run; `hf-hub:OWNER/NAME` for one on the Hugging Face hub or in its
            local cache.
        model: The plain backbone to put it on, with a head of the right size; made from the adapter's own record if
            not given.
        weights: File with the backbone's weights, if they are no longer where the record says.

    Returns:
        The tuned model, in `eval()` mode, with `.class_names` and `.preprocessing`.

    Raises:
        AdapterError: If files are missing or damaged, or the backbone is not the one it was made on.
    """
    directory = hub.fetch(path) if hub.is_hub_name(path) else Path(path)
    if not directory.is_dir():
        raise AdapterError(f"no adapter at '{directory}': there is no such directory.")
    config, tensors = _files.read(directory)
    methods = [_method(entry, directory) for entry in config["methods"]]
    if model is None:
        model = _rebuilt(config, directory, weights)
    tuned = apply(model, methods, check=False)
    try:
        if tuned.anatomy.family != config["family"]:
            raise AdapterError(
                f"the adapter in '{directory}' was made on a {config['family']} backbone and the model is a "
                f"{tuned.anatomy.family}."
            )
        _fill(tuned, tensors, config, directory)
    except BaseException:
        tuned.detach()
        raise
    names = config.get("class_names")
    tuned.class_names = None if names is None else tuple(names)
    tuned.preprocessing = config.get("preprocessing")
    tuned.model.eval()
    return tuned


def _method(entry: dict[str, Any], directory: Path) -> Method:
    try:
        return get_method(entry["name"]).from_settings(entry["settings"])
    except VituneError as error:
        raise AdapterError(f"'{directory / _files.CONFIG}': {error}") from None
    except (KeyError, TypeError) as error:
        raise AdapterError(
            f"'{directory / _files.CONFIG}': cannot read the method {entry!r}: {error}."
        ) from None


def _rebuilt(config: dict[str, Any], directory: Path, weights: str | Path | None) -> nn.Module:
    if config["backbone"] is None:
        raise AdapterError(
            f"the adapter in '{directory}' does not know how its backbone was made; "
            f"make the backbone and give it: vitune.load(path, model=...)."
        )
    source = BackboneSource.from_dict(config["backbone"])
    return rebuild(source, config["num_classes"] or 0, weights=None if weights is None else Path(weights))


def _fill(tuned: Tuned, tensors: dict[str, Tensor], config: dict[str, Any], directory: Path) -> None:
    """Check everything, then copy: a backbone that does not fit is not touched."""
    own = {tuned.anatomy.path_of(name): t for name, t in tensors.items() if not name.startswith("policy.")}
    packed, stored = own.pop(low_bit.BLOB, None), {}
    for method in tuned.methods:
        own = method.restored(tuned, own)
    try:
        if packed is not None:
            missing = tuned.state().keys() - own.keys()
            stored = low_bit.read_blob(tuned, packed, missing, config.get("store_bits"))
            own |= low_bit.values(stored, tuned)
        tuned.require_fit(own)
    except AdapterError as error:
        raise AdapterError(f"the adapter in '{directory}' does not fit this backbone: {error}") from None
    if frozen_hash(tuned) != config["frozen_sha256"]:
        raise AdapterError(
            f"the backbone's weights are not those that the adapter in '{directory}' was trained on "
            f"(their hash differs); give the right ones, as weights= or --weights."
        )
    if len(config["policies"]) != len(tuned.policies):
        raise AdapterError(
            f"the adapter in '{directory}' holds the state of {len(config['policies'])} policies and its methods "
            f"have {len(tuned.policies)}; copy both of its files again."
        )
    tuned.load_state(own)
    low_bit.hold(tuned, stored)
    for i, (policy, state) in enumerate(zip(tuned.policies, config["policies"], strict=True)):
        prefix = f"policy.{i}."
        kept = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        policy.load_state_dict({**state, **kept})

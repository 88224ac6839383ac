"""Pre-trained modules: what a method learnt on one data set as the start of training on another.

Song et al., "PVP: Pre-trained Visual Parameter-Efficient Tuning" (arXiv:2304.13639): prompts, LoRA or adapters are
first trained on a large labelled set with the backbone frozen; every task starts from them with a fresh head. No code
was released; what is not in the abstract (the file, what may differ between the two phases) is our choice.

The failure that nobody would notice is a start that silently is the usual one, so whatever does not fit is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitune import __version__
from vitune.adapters import _files, _modules_file
from vitune.adapters._identity import frozen_hash
from vitune.adapters._modules_file import Modules
from vitune.backbones import describe_source
from vitune.errors import AdapterError, VituneError
from vitune.methods import Method, get_method
from vitune.tuned import Tuned

# Method -> ending of the tensors that cannot all be zero (SSF: one) once something was learnt.
HOSTS = {"vpt": "prompts", "lora": ".up", "adapter": ".up.weight", "adaptformer": ".up.weight", "ssf": ""}
# Settings that change neither the shape of the modules nor what they compute in evaluation.
_FREE = {"dropout", "dropout_at", "init", "init_std"}
_PROMPTS = "prompts"


def require_host(method: Method) -> None:
    """Refuse a method whose modules cannot be carried over.

    Raises:
        AdapterError: If it is not one of `HOSTS`.
    """
    if method.name not in HOSTS:
        raise AdapterError(
            f"the modules of '{method.name}' cannot be pre-trained: that is known to help for {', '.join(HOSTS)}; "
            f"choose one of these."
        )


def save_modules(
    tuned: Tuned,
    path: str | Path,
    *,
    data: str | None = None,
    accuracy: float | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Path:
    """Write the modules of a trained model, without its head.

    Args:
        tuned: A model with one method of `HOSTS`.
        path: The file.
        data: What they were trained on.
        accuracy: Top-1 on it, 0 to 1.
        preprocessing: timm data configuration; what `tuned` knows if not given.

    Returns:
        The file.

    Raises:
        AdapterError: If the method is none of `HOSTS`, nothing was learnt, or the file cannot be written.
    """
    method = _only_method(tuned, "saved")
    heads = tuple(f"{head}." for head in tuned.anatomy.head)
    tensors = {tuned.anatomy.role_of(n): t for n, t in tuned.state().items() if not n.startswith(heads)}
    source = describe_source(tuned.model)
    config = {
        "backbone": None if source is None else source.to_dict(),
        "family": tuned.anatomy.family,
        "frozen_sha256": frozen_hash(tuned),
        "preprocessing": dict(preprocessing) if preprocessing is not None else tuned.preprocessing,
    }
    return _write(Path(path), method, config, tensors, data, accuracy)


def save_modules_of_adapter(
    directory: str | Path, path: str | Path, *, data: str | None = None, accuracy: float | None = None
) -> Path:
    """Write the modules of a saved adapter, without its head; the backbone is not needed.

    Args:
        directory: An adapter's or run's directory.
        path: The file.
        data: What it was trained on.
        accuracy: Top-1 on it, 0 to 1.

    Returns:
        The file.

    Raises:
        AdapterError: As `save_modules`, or if the adapter cannot be read.
    """
    config, tensors = _files.read(Path(directory))
    if len(config["methods"]) != 1:
        names = ", ".join(str(entry["name"]) for entry in config["methods"])
        raise AdapterError(f"'{directory}' has the methods {names}; modules are those of one method.")
    method = get_method(config["methods"][0]["name"]).from_settings(config["methods"][0]["settings"])
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    return _write(Path(path), method, config, own, data, accuracy)


def read_modules(path: str | Path) -> Modules:
    """What a file of modules holds.

    Raises:
        AdapterError: If it cannot be read.
    """
    return _modules_file.read(Path(path))


def load_modules(
    tuned: Tuned, path: str | Path, *, preprocessing: Mapping[str, Any] | None = None
) -> list[str]:
    """Start a model from pre-trained modules; its head stays as it is.

    A shorter set of prompts takes the first ones; a longer one keeps its own start behind those of the file.

    Args:
        tuned: A model with the same method on the same backbone, in any state; its modules are overwritten.
        path: The file.
        preprocessing: timm data configuration of the images to come, to compare.

    Returns:
        Sentences about what differs and is allowed to.

    Raises:
        AdapterError: If the file cannot be read, or backbone, method, settings or shapes differ; the model is then
            as it was.
    """
    path = Path(path)
    modules = read_modules(path)
    method = _only_method(tuned, "loaded")
    _check_method(method, modules.header["method"], path)
    if (
        tuned.anatomy.family != modules.header["family"]
        or frozen_hash(tuned) != modules.header["frozen_sha256"]
    ):
        name = (modules.header["backbone"] or {}).get("name", "another backbone")
        raise AdapterError(
            f"the modules in '{path}' were trained on {name} and this backbone's weights are not the same "
            f"(their hash differs); give the backbone and weights that they were trained on."
        )
    given = {tuned.anatomy.path_of(role): tensor for role, tensor in modules.tensors.items()}
    heads = tuple(f"{head}." for head in tuned.anatomy.head)
    own = {name: tensor for name, tensor in tuned.state().items() if not name.startswith(heads)}
    fitted, notes = _fitted(tuned, own, given, path)
    _require_learnt(method, modules.tensors, f"the modules in '{path}'")
    with torch.no_grad():
        for name, tensor in fitted.items():
            own[name].copy_(tensor)
    now = tuned.state()
    if not all(
        torch.equal(now[name].cpu(), tensor.to(now[name].dtype).cpu()) for name, tensor in fitted.items()
    ):
        raise AdapterError(f"the modules in '{path}' did not reach the model; is the model on a fake device?")
    return notes + _other_pixels(modules.header["preprocessing"], preprocessing, path)


def _only_method(tuned: Tuned, done: str) -> Method:
    if len(tuned.methods) != 1:
        names = ", ".join(method.name for method in tuned.methods)
        raise AdapterError(
            f"modules of one method can be {done}, and the model has {names}; give one method."
        )
    require_host(tuned.methods[0])
    return tuned.methods[0]


def _write(
    path: Path,
    method: Method,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    data: str | None,
    accuracy: float | None,
) -> Path:
    require_host(method)
    _require_learnt(method, tensors, "the modules")
    prompts = [tensor.float() for name, tensor in tensors.items() if name.endswith(_PROMPTS)]
    header = {
        "method": {"name": method.name, "settings": method.settings()},
        **{name: config[name] for name in ("backbone", "family", "frozen_sha256", "preprocessing")},
        "data": data,
        "accuracy": accuracy,
        # Prompts far longer than tokens make the learning rate of the second phase touchy: worth knowing.
        "prompt_norm": torch.cat(prompts).norm(dim=-1).mean().item() if prompts else None,
        "versions": {"vitune": __version__, **{name: version(name) for name in ("torch", "timm")}},
    }
    _modules_file.write(path, header, tensors)
    return path


def _require_learnt(method: Method, tensors: Mapping[str, Tensor], what: str) -> None:
    """A lost set of modules trains on all the same and looks plausible, so this must be loud."""
    if method.name == "ssf":
        learnt = any((t != (1 if name.endswith(".scale") else 0)).any() for name, t in tensors.items())
    else:
        learnt = any(t.any() for name, t in tensors.items() if name.endswith(HOSTS[method.name]))
    if not learnt:
        part = {"ssf": "all scales are 1 and all shifts 0", "vpt": "all prompts are 0"}.get(
            method.name, "all up-projections are 0"
        )
        raise AdapterError(
            f"{what} of '{method.name}' hold nothing that was learnt: {part}; train them first."
        )


def _check_method(method: Method, entry: Mapping[str, Any], path: Path) -> None:
    if entry["name"] != method.name:
        raise AdapterError(
            f"the modules in '{path}' are of '{entry['name']}' and this run trains '{method.name}'; "
            f"use --method {entry['name']}, or modules of '{method.name}'."
        )
    try:
        theirs = get_method(method.name).from_settings(entry["settings"]).settings()
    except VituneError as error:
        raise AdapterError(f"the header of '{path}': {error}") from None
    free = _FREE | ({_PROMPTS} if method.name == "vpt" else set())
    for name, value in method.settings().items():
        if name not in free and theirs[name] != value:
            raise AdapterError(
                f"the modules in '{path}' were trained with {name} {theirs[name]!r} and this run asks for {value!r}, "
                f"which are other modules; use {name} {theirs[name]!r}, or pre-train with {value!r}."
            )


def _fitted(
    tuned: Tuned, own: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as the model takes them, and what is to be said about it."""
    for name in sorted(own.keys() ^ given.keys()):
        where = "is missing in" if name in own else "has no place in the model, but is in"
        raise AdapterError(f"the tensor '{tuned.anatomy.role_of(name)}' {where} '{path}'.")
    fitted: dict[str, Tensor] = {}
    notes: list[str] = []
    for name, tensor in given.items():
        theirs, ours = tuple(tensor.shape), tuple(own[name].shape)
        if theirs != ours and not (name.endswith(_PROMPTS) and theirs[1:] == ours[1:]):
            raise AdapterError(
                f"the tensor '{tuned.anatomy.role_of(name)}' has shape {theirs} in '{path}', expected {ours}."
            )
        length = min(theirs[0], ours[0]) if theirs else 0
        fitted[name] = (
            tensor if theirs == ours else torch.cat([tensor[:length].to(own[name]), own[name][length:]])
        )
        if theirs and ours[0] > theirs[0] and not notes:
            notes.append(
                f"the modules in '{path}' have {theirs[0]} prompts and this run {ours[0]}; "
                f"the other {ours[0] - theirs[0]} start as usual."
            )
    return fitted, notes


def _other_pixels(theirs: Any, ours: Mapping[str, Any] | None, path: Path) -> list[str]:
    if not theirs or not ours:
        return []
    for name in ("mean", "std"):
        if list(theirs.get(name, ours[name])) != list(ours[name]):
            return [
                f"the modules in '{path}' saw images normalised with {name} {list(theirs[name])}, "
                f"and this run uses {list(ours[name])}."
            ]
    return []

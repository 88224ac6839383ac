"""Check one golden file: fill a tuned model with its tensors, run it, compare everything.

Logits, loss and intermediate tensors within 1e-5 absolute; gradients within 1e-4 of the tensor's largest value plus
1e-6. A file is ok when every tensor was compared or served as an input, every trained tensor of ours was compared and
every weight of ours was filled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import vitune
from tests.parity import references
from tests.parity.backbones import Place, build, place
from tests.parity.case import Case
from tests.parity.golden import Golden, read

ABSOLUTE = 1e-5
GRAD_RELATIVE, GRAD_ABSOLUTE = 1e-4, 1e-6


def check(path: Path) -> dict[str, Any]:
    """The JSON line of a file."""
    golden = Golden({}, kind="", method="", case="", backbone={}, hyperparameters={})
    failed: dict[str, Any] = {}
    try:
        golden = read(path)
        reference = references.find(golden.method)
        kinds = getattr(reference, "KINDS", {})
        if golden.kind not in {"model", *kinds}:
            raise ValueError(f"nothing is known about kind '{golden.kind}' of method '{golden.method}'")
        compared = kinds[golden.kind](golden) if golden.kind in kinds else compare(golden, reference.case)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        compared = {"logits_max_abs": None, "loss_abs": None, "grad_excess": None, "compared": 0}
        compared |= {"uncompared": sorted(golden.tensors), "ok": False}
        failed = {"error": str(error)}
    about = {"file": str(path), "kind": golden.kind, "method": golden.method, "case": golden.case}
    return about | compared | failed


def compare(golden: Golden, case_of: Callable[[Golden], Case]) -> dict[str, Any]:
    """Run the model and compare."""
    case = case_of(golden)
    tuned = vitune.apply(build(golden.backbone), case.method)
    tuned.model.eval()  # dropout and drop path are off in the references as well
    width = tuned.anatomy.width

    def our_place(name: str) -> Place:
        new = case.name(name)
        return Place(new) if new else place(name, width)

    places = {name: our_place(name) for name in golden.group("param")}
    used = {"input", "labels", *(f"param/{name}" for name in places), *case.inputs}
    further = {name: golden.tensors[name] for name in case.inputs}
    places |= {name: Place(where) for name, where in case.inputs.items()}
    unfilled = fill(tuned.model, golden.group("param") | further, places)
    aux, logits = run(tuned, golden.tensors["input"])
    loss = nn.functional.cross_entropy(logits, golden.tensors["labels"])
    loss.backward()
    aux |= case.aux(tuned, golden.tensors)

    worst = {
        "logits": distance(logits, golden.tensors["logits"]),
        "loss": distance(loss, golden.tensors["loss"]),
    }
    for name, reference in golden.group("aux").items():
        if name in aux:
            worst[f"aux/{name}"] = distance(aux[name], reference)
    trained = tuned.trainable()
    excess: dict[str, float] = {}
    missing = set(trained)
    for name, reference in golden.group("grad").items():
        where = our_place(name)
        gradient = trained[where.name].grad if where.name in trained else None
        if gradient is None:
            continue
        missing.discard(where.name)
        allowed = GRAD_RELATIVE * reference.abs().max().item() + GRAD_ABSOLUTE
        excess[f"grad/{name}"] = distance(where.of(gradient), reference) - allowed
    compared = worst.keys() | excess.keys()
    uncompared = sorted(golden.tensors.keys() - compared - used)
    uncompared += sorted(f"ours: {name}" for name in missing | unfilled)
    fits = all(value <= ABSOLUTE for value in worst.values()) and all(value <= 0 for value in excess.values())
    return {
        "logits_max_abs": worst["logits"],
        "loss_abs": worst["loss"],
        "grad_excess": max(excess.values(), default=None),
        "compared": len(compared),
        "uncompared": uncompared,
        "ok": fits and not uncompared and bool(excess),
    }


def distance(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ or a value is not a number."""
    if ours.shape != reference.shape:
        return float("inf")
    worst = (ours.detach().double() - reference.double()).abs().max().item() if ours.numel() else 0.0
    return worst if worst == worst else float("inf")


def fill(model: nn.Module, tensors: dict[str, Tensor], places: dict[str, Place]) -> set[str]:
    """Copy a reference's weights into ours; returns the names of ours that were not (wholly) written."""
    state = model.state_dict()
    written = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in state.items()}
    with torch.no_grad():
        for name, tensor in tensors.items():
            where = places[name]
            if where.name not in state:
                raise KeyError(
                    f"'{name}' of the reference is '{where.name}' here, which the model does not have"
                )
            target = where.of(state[where.name])
            if target.shape != tensor.shape:
                raise ValueError(f"'{name}' has shape {tuple(tensor.shape)}, ours {tuple(target.shape)}")
            target.copy_(tensor)
            where.of(written[where.name]).fill_(True)
    return {name for name, mask in written.items() if not mask.all()}


def run(tuned: vitune.Tuned, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Logits, and outputs of modules under the names that goldens use for them."""
    model, seen = tuned.model, {}
    modules = {"patch_embed": "patch_embed", "features": "norm"}
    modules |= {f"block{block.index}": block.path for block in tuned.anatomy.blocks}
    for block in tuned.anatomy.blocks:
        modules |= {f"{part}{block.index}": f"{block.path}.{part}" for part in ("attn", "mlp")}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    with ExitStack() as stack:
        for name, path in modules.items():
            handle = model.get_submodule(path).register_forward_hook(keep(name))
            stack.callback(handle.remove)
        logits = tuned(images)
    return seen, logits

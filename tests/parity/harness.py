"""Check one golden file: fill a tuned model with its tensors, run it, compare everything.

Logits and loss within 1e-5 absolute, intermediate tensors too or within 1e-5 of their largest value if that is above 1;
gradients within 1e-4 of the tensor's largest value plus 1e-6. A file is ok when every tensor was compared or served as
an input, every trained tensor of ours was compared and every weight of ours was filled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity import references
from tests.parity.backbones import Place, build, observed, place
from tests.parity.case import Case
from tests.parity.golden import Golden, read
from vitune.surgery import LeaveOut

ABSOLUTE = 1e-5
GRAD_RELATIVE, GRAD_ABSOLUTE = 1e-4, 1e-6
GRAD_ROUNDING = 1e-5  # of gradients that are zero in exact arithmetic


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
    except Exception as error:  # whatever it is, the other files are still to be checked
        compared = {"logits_max_abs": None, "loss_abs": None, "grad_excess": None, "compared": 0}
        compared |= {"uncompared": sorted(golden.tensors), "ok": False}
        failed = {"error": str(error) or type(error).__name__}
    unread = sorted(getattr(golden.hyperparameters, "unread", ()))
    if (
        unread and not compared["ok"] and not failed
    ):  # a name alone changes nothing; a difference has a reason
        failed = {"error": f"nothing here reads these hyperparameters, which may be why: {', '.join(unread)}"}
    about = {"file": str(path), "kind": golden.kind, "method": golden.method, "case": golden.case}
    return about | compared | failed


def compare(golden: Golden, case_of: Callable[[Golden], Case]) -> dict[str, Any]:
    """Run the model and compare."""
    case = case_of(golden)
    tuned = vitune.apply(build(golden.backbone), case.method)
    tuned.model.eval()  # dropout and drop path are off in the references as well
    width, family = tuned.anatomy.width, golden.backbone.get("family", "vit")

    def our_place(name: str) -> Place:
        new = case.name(name)
        return Place(new) if new else place(name, width, family)

    places = {name: our_place(name) for name in golden.group("param")}
    used = {"input", "labels", *(f"param/{name}" for name in places), *case.inputs}
    further = {name: golden.tensors[name] for name in case.inputs}
    places |= {name: Place(where) for name, where in case.inputs.items()}
    resting = {step.path for step in tuned._steps if isinstance(step, LeaveOut)}
    unfilled = fill(tuned.model, golden.group("param") | further, places) - resting
    aux, logits = run(tuned, golden.tensors["input"])
    loss = nn.functional.cross_entropy(logits, golden.tensors["labels"])
    loss.backward()
    aux |= case.aux(tuned, golden.tensors)

    ours = {"logits": logits, "loss": loss} | {f"aux/{name}": tensor for name, tensor in aux.items()}
    trained = tuned.trainable()
    missing = set(trained)
    for name in golden.group("grad"):
        where = our_place(name)
        gradient = trained[where.name].grad if where.name in trained else None
        if gradient is not None:
            missing.discard(where.name)
            ours[f"grad/{name}"] = where.of(gradient)
    absent = {"logits", "loss"} - golden.tensors.keys()
    result = verdict(golden, ours, used, missing | unfilled | absent)
    return result | {"ok": result["ok"] and result["grad_excess"] is not None}


def verdict(
    golden: Golden,
    ours: Mapping[str, Tensor | None],
    used: set[str],
    ours_alone: Collection[str] = (),
    rounding: Collection[str] = (),
) -> dict[str, Any]:
    """Compare tensors of ours with those of a golden, whatever its kind.

    Args:
        golden: The reference.
        ours: Our tensors by their names in the golden; those that the golden does not have are left aside. Integers
            and booleans must be equal; what has `grad` in the first part of its name, and SPT's sensitivities, which
            are squares of gradients, have the tolerance of gradients.
        used: Names in the golden that served as inputs.
        ours_alone: Names of ours that the golden did not fill or does not have.
        rounding: Names of gradients that would be zero but for rounding.
    """
    worst: dict[str, float] = {}
    excess: dict[str, float] = {}
    for name in golden.tensors.keys() & ours.keys():
        reference, tensor = golden.tensors[name], ours[name]
        if tensor is None:
            continue
        if not reference.is_floating_point():
            same = tensor.shape == reference.shape and bool((tensor.long() == reference.long()).all())
            worst[name] = 0.0 if same else float("inf")
        elif name.startswith(("grad", "aux/grad", "aux/sensitivity")):
            absolute = GRAD_ROUNDING if name in rounding else GRAD_ABSOLUTE
            allowed = GRAD_RELATIVE * reference.abs().max().item() + absolute
            excess[name] = distance(tensor, reference) - allowed
        else:
            # Features of size 50 are not known to 1e-5 in float32.
            largest = reference.abs().max().item() if name.startswith("aux/") and reference.numel() else 1.0
            worst[name] = distance(tensor, reference) / max(1.0, largest)
    compared = worst.keys() | excess.keys()
    uncompared = sorted(golden.tensors.keys() - compared - used)
    uncompared += sorted(f"ours: {name}" for name in ours_alone)
    fits = all(value <= ABSOLUTE for value in worst.values()) and all(value <= 0 for value in excess.values())
    return {
        "logits_max_abs": worst.get("logits"),
        "loss_abs": worst.get("loss"),
        "grad_excess": max(excess.values(), default=None),
        "compared": len(compared),
        "uncompared": uncompared,
        "ok": fits and bool(compared) and not uncompared,
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
    for named in (model.named_parameters, model.named_buffers):
        once = dict(named())
        for name, _ in named(remove_duplicate=False):
            if name not in once:  # what several layers share is filled under its first name
                written.pop(name, None)
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in state}
    with torch.no_grad():
        for name, tensor in tensors.items():
            where = places[name]
            if (
                where.name in computed
            ):  # a table that the architecture makes by itself: nothing to fill, but to check
                if not torch.equal(computed[where.name].to(tensor.dtype), tensor):
                    raise ValueError(f"'{name}' of the reference is another table than ours")
                continue
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
    modules = observed(tuned.anatomy)

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

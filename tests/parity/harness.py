"""Check one golden file: fill a tuned model with its tensors, run it, compare everything.

Logits and loss within 1e-5 absolute; intermediate tensors too, or within 1e-6 of their largest value where that is
more, since float32 keeps seven digits; gradients within 1e-4 of the tensor's largest value plus 1e-6. A model may be so
steep (an update scaled by 10 in front of a softmax) that rounding alone moves it by more: where a tensor is up to ten
times beyond its tolerance, three times the distance between ours in float32 and in float64 is added to the tolerance.
A file is ok when every tensor was compared or served as an input, every trained tensor of ours was compared and
every weight of ours was filled. Of one that is not, the line says which metadata nothing here has read.
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

ABSOLUTE, RELATIVE = 1e-5, 1e-6
GRAD_RELATIVE, GRAD_ABSOLUTE = 1e-4, 1e-6
NEAR, ROUNDINGS = 10, 3
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
    except Exception as error:  # whatever a file holds, the next one is checked
        compared = {"logits_max_abs": None, "loss_abs": None, "grad_excess": None, "compared": 0}
        compared |= {"uncompared": sorted(golden.tensors), "ok": False}
        failed = {"error": str(error) or type(error).__name__}
    if not compared["ok"] and (unasked := golden.unasked()):
        failed["metadata_not_read"] = unasked
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
    unfilled = fill(tuned.model, golden.group("param") | further, places) - set(case.idle)
    unfilled -= {step.path for step in tuned._steps if isinstance(step, LeaveOut)}
    trained = tuned.trainable()
    gradients = {name: our_place(name) for name in golden.group("grad")}
    gradients = {name: where for name, where in gradients.items() if where.name in trained}

    def outputs(images: Tensor) -> dict[str, Tensor]:
        aux, logits = run(tuned, images)
        loss = nn.functional.cross_entropy(logits, golden.tensors["labels"])
        tuned.model.zero_grad()
        loss.backward()
        aux |= case.aux(tuned, golden.tensors)
        found = {"logits": logits, "loss": loss} | {f"aux/{name}": tensor for name, tensor in aux.items()}
        for name, where in gradients.items():
            if (gradient := tuned.trainable()[where.name].grad) is not None:
                found[f"grad/{name}"] = where.of(gradient)
        return {name: found[name].detach().clone() for name in found.keys() & golden.tensors.keys()}

    ours = outputs(golden.tensors["input"])

    def rounding() -> dict[str, float]:
        tuned.model.double()
        exact = outputs(golden.tensors["input"].double())
        return {name: distance(ours[name], tensor) for name, tensor in exact.items()}

    compared = {where.name for name, where in gradients.items() if f"grad/{name}" in ours}
    absent = {"logits", "loss"} - ours.keys()
    alone = (trained.keys() - compared - set(case.idle)) | unfilled | absent
    result = verdict(golden, ours, used, alone, rounding)
    return result | {"ok": result["ok"] and result["grad_excess"] is not None}


def verdict(
    golden: Golden,
    ours: Mapping[str, Tensor | None],
    used: set[str],
    ours_alone: Collection[str] = (),
    rounding: Callable[[], Mapping[str, float]] | None = None,
    vanishing: Collection[str] = (),
) -> dict[str, Any]:
    """Compare tensors of ours with those of a golden, whatever its kind.

    Args:
        golden: The reference.
        ours: Our tensors by their names in the golden; those that the golden does not have are left aside. Integers
            and booleans must be equal; what has `grad` in the first part of its name, and SPT's sensitivities, which
            are squares of gradients, have the tolerance of gradients.
        used: Names in the golden that served as inputs.
        ours_alone: Names of ours that the golden did not fill or does not have.
        rounding: Gives by how much rounding moves tensors of ours; asked where a few are just beyond the tolerance.
        vanishing: Names of gradients that would be zero but for rounding.
    """
    far: dict[str, float] = {}
    allowed: dict[str, float] = {}
    for name in golden.tensors.keys() & ours.keys():
        reference, tensor = golden.tensors[name], ours[name]
        if tensor is None:
            continue
        if not reference.is_floating_point():
            same = tensor.shape == reference.shape and bool((tensor.long() == reference.long()).all())
            far[name], allowed[name] = 0.0 if same else float("inf"), 0.0
            continue
        far[name] = distance(tensor, reference)
        largest = reference.abs().max().item() if reference.numel() else 0.0
        if is_gradient(name):
            allowed[name] = GRAD_RELATIVE * largest + (GRAD_ROUNDING if name in vanishing else GRAD_ABSOLUTE)
        else:
            allowed[name] = max(ABSOLUTE, RELATIVE * largest) if name.startswith("aux/") else ABSOLUTE
    beyond = [name for name in far if not far[name] <= allowed[name]]
    if beyond and rounding and all(far[name] <= NEAR * allowed[name] for name in beyond):
        try:
            moved = rounding()
        except RuntimeError:  # what does not run in float64 has no excuse
            moved = {}
        allowed |= {name: allowed[name] + ROUNDINGS * moved.get(name, 0.0) for name in beyond}
    uncompared = sorted(golden.tensors.keys() - far.keys() - used)
    uncompared += sorted(f"ours: {name}" for name in ours_alone)
    fits = all(far[name] <= allowed[name] for name in far)
    excess = [far[name] - allowed[name] for name in far if is_gradient(name)]
    return {
        "logits_max_abs": far.get("logits"),
        "loss_abs": far.get("loss"),
        "grad_excess": max(excess, default=None),
        "compared": len(far),
        "uncompared": uncompared,
        "ok": fits and bool(far) and not uncompared,
    }


def is_gradient(name: str) -> bool:
    """Whether a tensor of a golden has the tolerance of gradients."""
    return name.startswith(("grad", "aux/grad", "aux/sensitivity"))


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

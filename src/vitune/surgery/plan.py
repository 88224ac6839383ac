"""Plan edits, check all of them, then make them; or undo them.

A method returns steps; nothing is changed until every step of every method has been checked, and a step that fails
all the same undoes those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from vitune.errors import SurgeryError
from vitune.surgery import split_bias
from vitune.surgery.edits import CHILD, Edit, attach, detach, layer_of, parts_of
from vitune.surgery.points import CONTEXT, ROWS, BlockWithPoints, Points, WithPoints, points_for

# Points of a block whose layers need points in its attention too.
_HANDED = (CONTEXT, ROWS)

MakeLayer = Callable[[], nn.Module]


@dataclass(frozen=True)
class Attach:
    """Put an edit on an operator.

    Attributes:
        role: Role of the operator, for people and files.
        path: Path of the module.
        edit: The edit.
        make: Makes its layer; called once, when the step is carried out.
        parts: (role, child of the layer) for a layer that serves several roles of a fused operator.
    """

    role: str
    path: str
    edit: type[Edit]
    make: MakeLayer = field(repr=False)
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Name of the layer."""
        return self.edit.key


@dataclass(frozen=True)
class AttachAtPoint:
    """Put a layer at a named point of a block or of an attention.

    Attributes:
        role: Role of the place, for instance `blocks.3.mlp.beside`.
        path: Path of the block, or of its attention.
        point: One of `vitune.surgery.POINTS`.
        key: Name of the layer, unique at the point.
        make: Makes the layer.
        inert: Whether the layer does nothing outside training, so that a merged model goes without it.
    """

    role: str
    path: str
    point: str
    key: str
    make: MakeLayer = field(repr=False)
    inert: bool = False


@dataclass(frozen=True)
class Train:
    """Let a parameter of the backbone train.

    Attributes:
        role: Role of the parameter, for instance `blocks.3.attn.out.bias`.
        path: Its name in the model's state dict.
    """

    role: str
    path: str


@dataclass(frozen=True)
class LeaveOut:
    """Let a parameter of the head rest, because the method has a head of its own or does not use that part.

    Heads train otherwise without being named. What is left out is no part of the adapter.

    Attributes:
        role: Role of the parameter, for instance `head.bias`.
        path: Its name in the model's state dict.
    """

    role: str
    path: str


Step = Attach | AttachAtPoint | Train | LeaveOut


def check(model: nn.Module, steps: Sequence[Step]) -> None:
    """Find out whether all steps can be carried out, changing nothing.

    Raises:
        SurgeryError: If a module or parameter is missing, a place is taken, or a module's `forward` would never run.
        UnsupportedBackboneError: If a block has no forward pass with points.
    """
    taken: set[tuple[str, str]] = set()
    coming: list[str] = []  # layers that earlier steps bring; an edit may act on one of them
    for step in steps:
        if isinstance(step, Attach) and f"{step.path}.".startswith(tuple(coming)):
            if (step.path, step.key) in taken:
                raise SurgeryError(
                    f"{step.role}: '{step.key}' is there already; one edit of a kind per place."
                )
            taken.add((step.path, step.key))
            continue
        try:
            is_parameter = isinstance(step, (Train, LeaveOut))
            target = model.get_parameter(step.path) if is_parameter else model.get_submodule(step.path)
        except AttributeError as error:
            raise SurgeryError(f"{step.role}: nothing to edit at '{step.path}': {error}.") from None
        if isinstance(step, (Train, LeaveOut)) or not isinstance(target, nn.Module):
            continue
        if isinstance(step, AttachAtPoint):
            known = points_for(target).points
            if step.point not in known:
                raise SurgeryError(
                    f"{step.role}: no point '{step.point}'; known: {', '.join(known)} "
                    f"(of a {parts_of(target)[0].__name__})."
                )
            for opened in _opened(target, step):
                points_for(opened)
        place = step.path if isinstance(step, Attach) else f"{step.path}:{step.point}"
        if (place, step.key) in taken or step.key in _present(target, step):
            raise SurgeryError(f"{step.role}: '{step.key}' is there already; one edit of a kind per place.")
        taken.add((place, step.key))
        coming.append(f"{layer_path(step)}.")
        if isinstance(step, Attach) and type(target).__name__ == "NonDynamicallyQuantizableLinear":
            raise SurgeryError(
                f"{step.role}: '{step.path}' belongs to nn.MultiheadAttention, which never calls its forward; "
                f"an edit there would do nothing."
            )


def _present(module: nn.Module, step: Attach | AttachAtPoint) -> set[str]:
    _, edits = parts_of(module)
    if isinstance(step, Attach):
        return {edit.key for edit in edits}
    for edit in edits:
        if issubclass(edit, WithPoints):
            return set(_points(module, edit).at(step.point))
    return set()


def carry_out(model: nn.Module, steps: Sequence[Step]) -> None:
    """Make the edits, in order. `Train` and `LeaveOut` are left to the caller, who knows what else trains.

    Raises:
        SurgeryError: As `check`; the model is then as it was.
    """
    check(model, steps)
    done: list[Step] = []
    try:
        for step in steps:
            _carry_out(model, step)
            done.append(step)
    except BaseException:
        undo(model, done)
        raise


def _carry_out(model: nn.Module, step: Step) -> None:
    if isinstance(step, (Train, LeaveOut)):
        return
    module = model.get_submodule(step.path)
    layer = step.make()
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    if like is None:
        like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is not None:
        layer.to(device=like.device, dtype=like.dtype)
    layer.train(module.training)
    if isinstance(step, Attach):
        split_bias.bring(model, step.path)
        attach(module, step.edit, layer)
        return
    for opened in _opened(module, step):
        edit = points_for(opened)
        if edit not in parts_of(opened)[1]:
            attach(opened, edit, Points(edit.points).train(opened.training))
    _points(module, points_for(module)).at(step.point)[step.key] = layer


def _opened(module: nn.Module, step: AttachAtPoint) -> list[nn.Module]:
    """The modules that a step needs with points: a block hands further rows to its attention."""
    edit = points_for(module)
    if step.point in _HANDED and issubclass(edit, BlockWithPoints):
        return [module, module.get_submodule(edit.attention_name)]
    return [module]


def undo(model: nn.Module, steps: Sequence[Step]) -> None:
    """Take the edits off again, the latest first.

    Raises:
        SurgeryError: If another tool changed the class of an edited module in the meantime.
    """
    for step in reversed(steps):
        if isinstance(step, (Train, LeaveOut)):
            continue
        module = model.get_submodule(step.path)
        if isinstance(step, Attach):
            detach(module, step.edit)
            split_bias.leave(model, step.path)
            continue
        points = _points(module, points_for(module))
        del points.at(step.point)[step.key]
        opened = _opened(module, step)
        if opened[1:] and any(len(points.at(point)) for point in _HANDED if point in points.points):
            opened = opened[:1]  # another layer hands rows to the attention still
        for one in opened:
            edit = points_for(one)
            if edit in parts_of(one)[1] and _points(one, edit).empty:
                detach(one, edit)


def layer_path(step: Attach | AttachAtPoint) -> str:
    """State-dict path of the layer that a step brings."""
    below = f"{CHILD}.{step.key}"
    if isinstance(step, AttachAtPoint):
        below = f"{CHILD}.points.{step.point.replace('.', '_')}.{step.key}"
    return f"{step.path}.{below}" if step.path else below  # no path: the model itself


def _points(module: nn.Module, edit: type[Edit]) -> Points:
    layer = layer_of(module, edit)
    assert isinstance(layer, Points)
    return layer

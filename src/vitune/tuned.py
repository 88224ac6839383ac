"""Apply methods to a backbone, and the handle that results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, anatomy, logits
from vitune.errors import AdapterError, CompositionError, SurgeryError, UnsupportedBackboneError
from vitune.lean import Level, memory_level, set_memory
from vitune.methods import Full, Method, Policy, all_methods
from vitune.ops.stored import Stored
from vitune.surgery import (
    Attach,
    AttachAtPoint,
    LeaveOut,
    Step,
    Train,
    carry_out,
    check,
    gate,
    hold,
    layer_path,
    release,
    undo,
)


@dataclass(frozen=True)
class EditCost:
    """What one edit trains.

    Attributes:
        role: The place.
        edit: Name of the layer, or `train` for a parameter of the backbone.
        parameters: Trained numbers.
    """

    role: str
    edit: str
    parameters: int


@dataclass(frozen=True)
class Summary:
    """What trains, counted.

    Attributes:
        trained_parameters: All trained numbers, the head's included.
        head_parameters: Those of the head.
        total_parameters: All numbers of the model, new ones included.
        edits: The edits outside the head.
    """

    trained_parameters: int
    head_parameters: int
    total_parameters: int
    edits: tuple[EditCost, ...]

    @property
    def method_parameters(self) -> int:
        """Trained numbers outside the head: what papers count."""
        return self.trained_parameters - self.head_parameters


class Tuned:
    """A backbone with methods applied to it.

    Attributes:
        model: The very model that was given, edited in place.
        anatomy: Its parts.
        methods: What was applied, in order.
        policies: What the methods do during training, in the same order.
        class_names: Names of the classes, where known.
        preprocessing: timm data configuration (input_size, mean, std, interpolation ...), where known.
        stored: Matrices that were rounded for the disk, by state-dict name; see `vitune.adapters.round_weights`.
    """

    def __init__(
        self, model: nn.Module, found: Anatomy, methods: tuple[Method, ...], steps: tuple[Step, ...]
    ) -> None:
        self.model, self.anatomy, self.methods, self._steps = model, found, methods, steps
        self.class_names: tuple[str, ...] | None = None
        self.preprocessing: dict[str, Any] | None = None
        self._held: tuple[str, ...] = ()  # norms whose running statistics stay as they are
        self._statistics: tuple[str, ...] = ()  # buffers of those that collect statistics
        self._required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
        self.policies: tuple[Policy, ...] = ()
        self.stored: dict[str, Stored] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Class scores (B, C) of images (B, channels, height, width); of token ids see `vitune.anatomy.logits`."""
        return logits(self.model, images)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by its name in the state dict, in the model's order.

        Decided by the plan: a parameter that a policy freezes for a step goes on belonging here.
        """
        named = {step.path for step in self._steps if isinstance(step, Train)}
        prefixes = (*(f"{path}." for path in self.anatomy.head), *self._layer_paths())
        resting = {step.path for step in self._steps if isinstance(step, LeaveOut)}
        parameters = self.model.named_parameters()
        return {n: p for n, p in parameters if n not in resting and (n in named or n.startswith(prefixes))}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trained parameters, for an optimizer."""
        return iter(self.trainable().values())

    def state(self) -> dict[str, Tensor]:
        """All that training changes, by state-dict name.

        Trained parameters, the buffers of new layers, the running statistics of norms that train as a whole.
        """
        tensors: dict[str, Tensor] = dict(self.trainable())
        layers = self._layer_paths()
        # Without buffers that are no part of the state, such as tables.
        lasting = self.model.state_dict(keep_vars=True).keys()
        buffers = self.model.named_buffers()
        changing = self._statistics
        tensors |= {n: b for n, b in buffers if n in lasting and (n.startswith(layers) or n in changing)}
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave.

        Raises:
            AdapterError: As `require_fit`.
        """
        self.require_fit(tensors)
        own = self.state()
        with torch.no_grad():
            for name, tensor in tensors.items():
                own[name].copy_(tensor)

    def require_fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Find out whether `load_state` would take tensors, changing nothing.

        Raises:
            AdapterError: If a tensor is missing, unknown or of another shape.
        """
        own = self.state()
        for name in [*(n for n in own if n not in tensors), *(n for n in tensors if n not in own)]:
            kind = "is missing" if name in own else "does not belong to this model"
            raise AdapterError(
                f"the tensor '{self.anatomy.role_of(name)}' {kind}; was it made with other settings?"
            )
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                raise AdapterError(
                    f"the tensor '{self.anatomy.role_of(name)}' has shape {tuple(tensor.shape)}, "
                    f"expected {tuple(own[name].shape)}."
                )

    def costs(self) -> Summary:
        """Count what trains."""
        trained = self.trainable()
        edits = []
        counted: set[str] = set()
        for step in self._steps:
            if isinstance(step, LeaveOut) or step.path in self.anatomy.head:
                continue
            if isinstance(step, Train):
                if step.path in counted:  # two methods may train the same parameter of the backbone
                    continue
                counted.add(step.path)
                edits.append(EditCost(step.role, "train", trained[step.path].numel()))
                continue
            layer = layer_path(step)
            parts = step.parts if isinstance(step, Attach) else ()
            for role, child in [(role, f"{layer}.{child}") for role, child in parts] or [(step.role, layer)]:
                count = sum(p.numel() for name, p in trained.items() if name.startswith(f"{child}."))
                known = any((edit.role, edit.edit) == (role, step.key) for edit in edits)
                if count or not known:  # what only reads another edit's layer is no edit of its own
                    edits.append(EditCost(role, step.key, count))
        heads = tuple(f"{path}." for path in self.anatomy.head)
        return Summary(
            trained_parameters=sum(p.numel() for p in trained.values()),
            head_parameters=sum(p.numel() for name, p in trained.items() if name.startswith(heads)),
            total_parameters=sum(p.numel() for p in self.model.parameters()),
            edits=tuple(edits),
        )

    def summary(self) -> str:
        """What trains, in words."""
        costs = self.costs()
        names = " + ".join(method.title for method in self.methods)
        share = 100 * costs.trained_parameters / costs.total_parameters
        kinds: dict[str, list[int]] = {}
        for edit in costs.edits:
            place = edit.role.split(".", 2)[2] if edit.role.startswith("blocks.") else edit.role
            kinds.setdefault(f"{place} ({edit.edit})", []).append(edit.parameters)
        lines = [
            f"{names} on {type(self.model).__name__} ({self.anatomy.family})",
            f"  trains {costs.trained_parameters:,} of {costs.total_parameters:,} parameters ({share:.2f} %): "
            f"{costs.method_parameters:,} by the method, {costs.head_parameters:,} in the head",
        ]
        lines += [
            f"  {place}: {len(counts)} x, {sum(counts):,} parameters" for place, counts in kinds.items()
        ]
        return "\n".join(lines)

    def save(
        self,
        path: str | Path,
        *,
        class_names: Sequence[str] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        store_bits: int | None = None,
    ) -> Path:
        """Write the adapter: see `vitune.adapters.save`."""
        from vitune.adapters import save  # a layer above; imported for the user's convenience

        return save(
            self,
            path,
            class_names=class_names,
            preprocessing=preprocessing,
            extra=extra,
            store_bits=store_bits,
        )

    def merge(self, *, partial: bool = False) -> nn.Module:
        """Fold the edits into the backbone's weights: see `vitune.adapters.merge`."""
        from vitune.adapters import merge  # a layer above, as in `save`

        return merge(self, partial=partial)

    @property
    def memory(self) -> Level:
        """What training steps keep for the backward pass, one of `vitune.lean.LEVELS`."""
        return memory_level(self.model)

    @memory.setter
    def memory(self, level: Level) -> None:
        alone = all(method.each_token_alone for method in self.methods)
        set_memory(self.anatomy, level, each_token_alone=alone)

    def detach(self) -> nn.Module:
        """Take all edits off; the model is as it was before, but for what training did to its own parameters.

        Raises:
            SurgeryError: If another tool changed the class of an edited module in the meantime.
        """
        release(self.model, self._held)
        self._held, self._statistics = (), ()
        self.memory = "stock"
        undo(self.model, self._steps)
        for name, parameter in self.model.named_parameters():
            # A merge in part may have given layers a bias that was not there before.
            parameter.requires_grad_(self._required_grad.get(name, True))
        self._steps, self.methods, self.policies = (), (), ()
        return self.model

    def _layer_paths(self) -> tuple[str, ...]:
        return tuple(f"{layer_path(s)}." for s in self._steps if isinstance(s, (Attach, AttachAtPoint)))


def plan(found: Anatomy, methods: Sequence[Method]) -> tuple[Step, ...]:
    """All steps of several methods, checked against each other and the model; changes nothing.

    Raises:
        UnsupportedBackboneError: If the model reads text and a method is defined on images alone.
        CompositionError: If two methods cannot live together.
        VituneError: As the methods' `edits` and `vitune.surgery.check`.
    """
    if found.vocabulary and (images_only := [method.name for method in methods if not method.reads_text]):
        known = ", ".join(name for name, method in all_methods().items() if method.reads_text)
        raise UnsupportedBackboneError(
            f"'{images_only[0]}' is defined on images and {type(found.model).__name__} reads text; on text work "
            f"{known}."
        )
    for i, one in enumerate(methods):
        for other in methods[i + 1 :]:
            if one.name == other.name:
                raise CompositionError(f"'{one.name}' is given twice; once is enough.")
            reason = one.conflicts.get(other.name) or other.conflicts.get(one.name)
            if reason:
                raise CompositionError(f"'{one.name}' and '{other.name}' cannot be combined: {reason}.")
    training = methods if any(not method.acts_on_others for method in methods) else (Full(), *methods)
    steps = [step for method in training for step in method.edits(found)]
    for method in methods:
        steps += method.further(found, steps)
    for method in methods:
        steps = method.narrowed(found, steps)
    check(found.model, steps)
    return tuple(steps)


def apply(
    model: nn.Module, methods: Method | Sequence[Method], *, seed: int = 0, check: bool = True
) -> Tuned:
    """Edit a backbone in place.

    The backbone is frozen but for what the methods train; the head always trains.

    Args:
        model: A backbone of a known family.
        methods: One method or several; later ones act on top of earlier ones.
        seed: Of the new layers' random start; the global random state is left alone.
        check: Whether to run one image (or a few tokens) forward and backward, to be sure that every edit is reached.

    Returns:
        The handle; `.model` is the given model.

    Raises:
        VituneError: If something does not fit; the model is then as it was.
    """
    methods = (methods,) if isinstance(methods, Method) else tuple(methods)
    if not methods:
        raise CompositionError("no method given; for instance vitune.LinearProbe() trains the head alone.")
    found = anatomy(model)
    if any(".vitune." in f".{name}." for name, _ in model.named_modules()):
        raise SurgeryError("the model is tuned already; give all methods at once, or detach the first.")
    steps = plan(found, methods)
    tuned = Tuned(model, found, methods, steps)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        carry_out(model, steps)
    try:
        _freeze(tuned)
        tuned._held, tuned._statistics = hold(model, tuned.trainable().keys())
        if check:
            gate(found, tuned.trainable())
        tuned.policies = tuple(p for p in (method.policy(tuned) for method in methods) if p is not None)
    except BaseException:
        tuned.detach()
        raise
    return tuned


def _freeze(tuned: Tuned) -> None:
    """Only what the plan names is to train."""
    trained = tuned.trainable()
    for name, parameter in tuned.model.named_parameters():
        parameter.requires_grad_(name in trained)

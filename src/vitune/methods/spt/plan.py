"""From the settings of an allocated SPT to the edits: one per layer and kind."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator, short_name
from vitune.errors import ConfigError, NothingMatchedError, UnsupportedBackboneError, did_you_mean
from vitune.methods.spt.candidates import PARALLEL_ADAPTER, Candidate, candidates, class_token
from vitune.methods.spt.sparse import PartPlan, SparseEdit, SparseNormEdit, SparseParts
from vitune.methods.spt.structured import AdapterEdit, Adapters, LoRAEdit, ModulePlan, SPTLowRank
from vitune.surgery import Attach, Step, Train

if TYPE_CHECKING:
    from vitune.methods.spt.settings import SPT


@dataclass
class _Layer:
    """What is to train of one layer, by role."""

    operator: Operator
    modules: dict[str, slice | None] = field(default_factory=dict)
    weight: dict[str, Tensor] = field(default_factory=dict)
    bias: dict[str, Tensor] = field(default_factory=dict)
    shifts: set[str] = field(default_factory=set)

    def rows(self, role: str) -> tuple[int, int]:
        part = self.operator.parts.get(role)
        return (0, self.operator.out_features) if part is None else (part.start, part.stop)

    @property
    def sparse_roles(self) -> list[str]:
        """In the order of the rows."""
        return sorted({*self.weight, *self.bias, *self.shifts}, key=self.rows)


def steps(found: Anatomy, method: SPT, positions: Mapping[str, Tensor]) -> list[Step]:
    """All edits of an allocated SPT.

    Args:
        found: The backbone.
        method: The settings.
        positions: Flat places of the entries that train, by candidate; evenly spread where they are not given.

    Raises:
        NothingMatchedError: If a name is no candidate of this backbone.
        ConfigError: If a tensor has too few entries, or is to train in two ways.
        UnsupportedBackboneError: If a module is asked for where no matrix is.
    """
    known = {candidate.name: candidate for candidate in candidates(found)}
    layers: dict[str, _Layer] = {}
    made: list[Step] = []
    token = class_token(found)
    if token is not None:
        made.append(Train("cls_token", token))
    for slot in found.find(method.structured) if method.structured else []:
        if slot.role + ".weight" not in known or slot.operator.kind != "linear":
            raise UnsupportedBackboneError(
                f"spt: '{slot.role}' is no single matrix inside a block; modules go on {_roles(known)}."
            )
        _layer(layers, slot.operator).modules[slot.role] = slot.rows
    vectors = _matching(found, known, method.vectors)
    for candidate in vectors:
        if candidate.is_matrix:
            raise ConfigError(f"spt: '{candidate.name}' is a matrix; only vectors train whole.")
        if candidate.rows is None:
            made.append(Train(candidate.name, candidate.path))
        else:
            _layer(layers, candidate.operator).shifts.add(candidate.role)
    for text in method.sparse:
        name, _, number = text.rpartition(":")
        if not re.fullmatch(r"[1-9]\d*", number):
            raise ConfigError(f"spt: sparse must be TENSOR:NUMBER for each tensor, not '{text}'.")
        for candidate in _matching(found, known, (name,)):
            _add_entries(_layer(layers, candidate.operator), candidate, int(number), positions, vectors)
    for layer in layers.values():
        made += _steps(found.model, layer, method)
    return made


def _roles(known: Mapping[str, Candidate]) -> str:
    return ", ".join(dict.fromkeys(short_name(c.role) for c in known.values() if c.is_matrix))


def _layer(layers: dict[str, _Layer], operator: Operator) -> _Layer:
    return layers.setdefault(operator.path, _Layer(operator))


def _matching(found: Anatomy, known: Mapping[str, Candidate], names: tuple[str, ...]) -> list[Candidate]:
    """The candidates that names such as `attn.q.bias` or `blocks.3.attn.q.bias` stand for."""
    matched = []
    for name in names:
        pattern, _, tensor = name.rpartition(".")
        slots = found.find((pattern,)) if pattern else []
        mine = [known[f"{slot.role}.{tensor}"] for slot in slots if f"{slot.role}.{tensor}" in known]
        if not mine:
            near = did_you_mean(short_name(name), {short_name(other) for other in known})
            raise NothingMatchedError(f"spt: '{name}' is no tensor that competes for the budget. {near}")
        matched += mine
    return list({candidate.name: candidate for candidate in matched}.values())


def _add_entries(
    layer: _Layer,
    candidate: Candidate,
    number: int,
    positions: Mapping[str, Tensor],
    vectors: list[Candidate],
) -> None:
    if number > candidate.numel:
        raise ConfigError(
            f"spt: '{candidate.name}' has {candidate.numel:,} entries, and {number:,} of them are to train."
        )
    if candidate in vectors or (candidate.is_matrix and candidate.role in layer.modules):
        whole = "has a module" if candidate.is_matrix else "trains whole"
        raise ConfigError(f"spt: '{candidate.name}' {whole} and is to train entry by entry; choose one.")
    places = positions.get(candidate.name)
    if places is None or len(places) != number:
        places = torch.arange(number) * candidate.numel // number
    entries = layer.weight if candidate.tensor == "weight" else layer.bias
    entries[candidate.role] = places.to(torch.int32).cpu()


def _steps(model: nn.Module, layer: _Layer, method: SPT) -> list[Step]:
    operator, made = layer.operator, []
    if layer.sparse_roles:
        plans = tuple(
            PartPlan(
                _child_name(role),
                layer.rows(role),
                layer.weight.get(role),
                layer.bias.get(role),
                role in layer.shifts,
            )
            for role in layer.sparse_roles
        )
        shape = tuple(model.get_submodule(operator.path).get_parameter("weight").shape)
        # The input of the output projection is what attention keeps; that of a LoRA is kept for its Down.
        kept = short_name(operator.role) == PARALLEL_ADAPTER or (
            bool(layer.modules) and method.structure == "lora"
        )
        edit = SparseNormEdit if operator.kind == "norm" else SparseEdit
        parts = tuple((role, _child_name(role)) for role in layer.sparse_roles)
        make = _MakeSparse(shape, plans, kept, operator.layout == "NCHW")
        made.append(Attach(operator.role, operator.path, edit, make, parts))
    if layer.modules:
        plan = _module_plan(layer, method)
        edit = LoRAEdit if method.structure == "lora" else AdapterEdit
        parts = tuple((role, _child_name(role)) for role in layer.modules)
        made.append(Attach(operator.role, operator.path, edit, _MakeModule(plan, method.structure), parts))
    return made


def _module_plan(layer: _Layer, method: SPT) -> ModulePlan:
    operator = layer.operator
    parallel = short_name(operator.role) == PARALLEL_ADAPTER
    return ModulePlan(
        names=tuple(_child_name(role) for role in layer.modules),
        rows=tuple(layer.modules.values()),
        in_features=operator.in_features,
        out_features=operator.out_features,
        rank=method.rank,
        dropout=0.0 if parallel else method.dropout,
        drop_path=method.drop_path,
        zero_up=method.init == "zero_up",
        bias=method.adapter_bias,
        parallel=parallel,
        # The end of the MLP is added to the residual stream, and nobody keeps it.
        output_is_kept=short_name(operator.role) != "mlp.out",
    )


def _child_name(role: str) -> str:
    """The last word of a role; torch.export writes children as attributes, where `in` would be Python's own."""
    name = role.rsplit(".", 1)[-1]
    return f"{name}_" if keyword.iskeyword(name) else name


@dataclass(frozen=True)
class _MakeSparse:
    shape: tuple[int, ...]
    plans: tuple[PartPlan, ...]
    input_is_kept: bool
    channels_first: bool

    def __call__(self) -> SparseParts:
        return SparseParts(self.shape, self.plans, self.input_is_kept, self.channels_first)


@dataclass(frozen=True)
class _MakeModule:
    plan: ModulePlan
    structure: str

    def __call__(self) -> nn.Module:
        return SPTLowRank(self.plan) if self.structure == "lora" else Adapters(self.plan)

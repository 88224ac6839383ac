"""Which tensors compete for the budget of SPT (section 3.2 of the paper; `sensitivity.py` of the official code).

Every weight and bias of the linear layers inside the blocks, rows of fused layers apart, and every norm's scale and
shift. Embeddings, position bias tables, convolutions and layers between stages stay frozen; the head and the class
token always train and do not compete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from vitune.anatomy import Anatomy, Operator, short_name

Structure = Literal["lora", "adapter"]

CLASS_TOKENS = ("cls_token", "class_embedding")  # what the libraries call it; it has no role, being no layer
PARALLEL_ADAPTER = "attn.out"  # its adapter reads the input of the layer; all others read the output


@dataclass(frozen=True)
class Candidate:
    """A tensor, or the rows of one that play a role, whose entries compete.

    Attributes:
        name: Its role and which tensor of it, for instance `blocks.0.attn.q.weight`.
        operator: The layer.
        tensor: Which parameter of the layer.
        rows: The rows of it that count; None: all.
        shape: Of these rows.
    """

    name: str
    operator: Operator
    tensor: Literal["weight", "bias"]
    rows: slice | None
    shape: tuple[int, ...]

    @property
    def role(self) -> str:
        """The role without the tensor's name."""
        return self.name.rpartition(".")[0]

    @property
    def path(self) -> str:
        """Name of the parameter in the model."""
        return f"{self.operator.path}.{self.tensor}"

    @property
    def numel(self) -> int:
        """Number of entries."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def is_matrix(self) -> bool:
        """Whether it can get a module: the weight of a linear layer. Biases and norms are vectors."""
        return self.operator.kind == "linear" and self.tensor == "weight"

    def module_parameters(self, structure: Structure, rank: int) -> int:
        """What a module on this matrix costs; an adapter's biases always count, as in the official code."""
        fan_out, fan_in = self.shape
        if structure == "lora":
            return rank * (fan_in + fan_out)
        reads = fan_in if short_name(self.role) == PARALLEL_ADAPTER else fan_out
        return rank * (reads + fan_out) + rank + fan_out


def candidates(found: Anatomy) -> tuple[Candidate, ...]:
    """All candidates in the order of the forward pass, weight before bias.

    Args:
        found: The backbone.
    """
    made: list[Candidate] = []
    for operator in found.operators:
        in_block = operator.kind == "linear" and operator.role.startswith("blocks.")
        norm = operator.kind == "norm" and not operator.role.startswith("patch_embed")
        if in_block or norm:
            module = found.model.get_submodule(operator.path)
            for role, rows in (operator.parts or {operator.role: None}).items():
                made += _of(module, operator, role, rows)
    return tuple(made)


def _of(module: nn.Module, operator: Operator, role: str, rows: slice | None) -> list[Candidate]:
    made = []
    for tensor in ("weight", "bias"):
        parameter = module._parameters.get(tensor)
        if parameter is not None:
            height = parameter.shape[0] if rows is None else rows.stop - rows.start
            made.append(Candidate(f"{role}.{tensor}", operator, tensor, rows, (height, *parameter.shape[1:])))
    return made


def class_token(found: Anatomy) -> str | None:
    """Name of the class token in the model, or None where there is none."""
    names = [name for name, _ in found.model.named_parameters()]
    return next((name for name in names if name.rpartition(".")[2] in CLASS_TOKENS), None)

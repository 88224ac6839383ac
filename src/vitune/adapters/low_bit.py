"""Weights in few bits on disk: those that methods train so, and those of any method on request.

All rounded matrices of an adapter lie in one tensor `low_bit`, a record each (`vitune.ops.stored`), in the order of
their sorted role names: 48 tensors of their own would take more room for their names than for their numbers. What
belongs to the model and has no tensor of its own in the file is in there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitune.errors import AdapterError, ConfigError
from vitune.ops.codebook import BITS
from vitune.ops.low_bit import latents
from vitune.ops.quantiser import quantisers
from vitune.ops.stored import Stored, record_bytes
from vitune.tuned import Tuned

BLOB = "low_bit"
BOOK = "converged"  # for matrices that did not train with a codebook
FLOAT = 32
SMALLEST = 16  # numbers; a smaller matrix would hardly gain, and the spread of one number is none


@dataclass(frozen=True)
class Rounding:
    """What rounding the matrices of an adapter does.

    Attributes:
        bits: Of each weight.
        tensors: Matrices rounded.
        weights: Numbers in them.
        bytes: What they take on disk.
        float_bytes: What they took in float32.
        relative_error: Root of the mean squared change, over that of the weights.
    """

    bits: int
    tensors: int
    weights: int
    bytes: int
    float_bytes: int
    relative_error: float

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def round_weights(tuned: Tuned, bits: int) -> Rounding:
    """Round the matrices of new layers in place, as a file of so many bits will hold them.

    Vectors, the head and trained weights of the backbone stay as they are. The next `save` keeps the roundings.

    Args:
        tuned: The tuned model.
        bits: 1, 2, 4 or 8.

    Returns:
        What it did.

    Raises:
        ConfigError: If the number of bits is another, or there is nothing to round.
    """
    stored = roundings(tuned, bits)
    found = _effect(tuned, stored, bits)
    with torch.no_grad():
        for name, matrix in stored.items():
            tuned.model.get_parameter(name).copy_(matrix.decode())
    tuned.stored = stored
    return found


def roundings(tuned: Tuned, bits: int) -> dict[str, Stored]:
    """The matrices of new layers, rounded; the model is left alone.

    Raises:
        ConfigError: As `round_weights`.
    """
    if bits not in BITS:
        raise ConfigError(f"store_bits must be 1, 2, 4 or 8, not {bits!r}.")
    trained_so = quantisers(tuned.model)
    matrices = {n: p for n, p in _matrices(tuned).items() if n not in trained_so}
    if not matrices:
        names = ", ".join(method.name for method in tuned.methods)
        reason = "its matrices have few bits already" if trained_so else "it has no matrices outside the head"
        raise ConfigError(f"store_bits={bits} would change nothing in '{names}': {reason}; leave it out.")
    known = _unchanged(tuned)
    return {
        name: known[name]
        if name in known and known[name].bits == bits
        else Stored.of(matrix.detach(), bits, BOOK)
        for name, matrix in matrices.items()
    }


def effect(tuned: Tuned, bits: int) -> Rounding:
    """What `round_weights` would do.

    Raises:
        ConfigError: As `round_weights`.
    """
    return _effect(tuned, roundings(tuned, bits), bits)


def stored_bytes(tuned: Tuned) -> int:
    """Bytes of all that `save` writes, without names: rounded matrices as records, the rest as it is."""
    trained = quantisers(tuned.model)
    bits = {name: quantiser.bits for name, quantiser in trained.items()}
    bits |= {name: stored.bits for name, stored in _unchanged(tuned).items()}
    state = tuned.state()
    for method in tuned.methods:
        state = method.stored(tuned, state)
    return sum(
        record_bytes(tensor.numel(), bits[name]) if name in bits else tensor.numel() * tensor.element_size()
        for name, tensor in state.items()
    )


def split(tuned: Tuned, store_bits: int | None) -> tuple[dict[str, Stored], int | None]:
    """What of an adapter goes to disk in few bits.

    Args:
        tuned: The tuned model.
        store_bits: Of the matrices of methods that train in full precision; 32 for full precision, None for what was
            loaded or rounded before and has not changed since.

    Returns:
        The rounded tensors by name, and the bits of those that did not train so.

    Raises:
        ConfigError: As `round_weights`.
    """
    if store_bits is None:
        extra = _unchanged(tuned)
    else:
        extra = {} if store_bits == FLOAT else roundings(tuned, store_bits)
    bits = next((stored.bits for stored in extra.values()), None)
    trained = {
        name: Stored(quantiser.code(tuned.model.get_parameter(name)), quantiser.bits, quantiser.book)
        for name, quantiser in quantisers(tuned.model).items()
    }
    return {**extra, **trained}, bits


def blob(tuned: Tuned, stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """The tensor that holds rounded matrices; none where there are none."""
    records = [stored[name].to_bytes() for name in sorted(stored, key=tuned.anatomy.role_of)]
    return {BLOB: torch.cat(records)} if records else {}


def read_blob(tuned: Tuned, data: Tensor, names: set[str], store_bits: int | None) -> dict[str, Stored]:
    """The inverse of `blob`.

    Args:
        tuned: The tuned model, whose own tensors tell the shapes.
        data: The bytes.
        names: The tensors in it.
        store_bits: Bits of those that did not train in few bits.

    Raises:
        AdapterError: If the bytes are of another length than these tensors take.
    """
    trained, own = quantisers(tuned.model), tuned.state()
    bits = {name: trained[name].bits if name in trained else store_bits for name in names}
    expected = sum(record_bytes(own[name].numel(), count or FLOAT) for name, count in bits.items())
    if None in bits.values() or data.dtype != torch.uint8 or data.numel() != expected:
        raise AdapterError(
            f"the {data.numel()} bytes of '{BLOB}' are not the {len(names)} matrices that have no tensor of their "
            f"own; was it made with other settings?"
        )
    found, position = {}, 0
    for name in sorted(names, key=tuned.anatomy.role_of):
        count = bits[name] or FLOAT
        book = trained[name].book if name in trained else BOOK
        end = position + record_bytes(own[name].numel(), count)
        found[name] = Stored.from_bytes(data[position:end], own[name].shape, count, book)
        position = end
    return found


def values(stored: Mapping[str, Stored], tuned: Tuned) -> dict[str, Tensor]:
    """What the tensors of a model become: latent weights where it trains in few bits, decoded ones elsewhere."""
    trained = quantisers(tuned.model)
    return {
        name: latents(matrix.code, trained[name].levels.cpu()) if name in trained else matrix.decode()
        for name, matrix in stored.items()
    }


def hold(tuned: Tuned, stored: Mapping[str, Stored]) -> None:
    """Let the model compute with what was stored, to the last bit, and the next `save` write it again."""
    trained = quantisers(tuned.model)
    tuned.stored = {name: matrix for name, matrix in stored.items() if name not in trained}
    for name, matrix in stored.items():
        if name in trained:
            trained[name].hold(tuned.model.get_parameter(name), matrix.code)


def _matrices(tuned: Tuned) -> dict[str, nn.Parameter]:
    """Trained matrices of new layers, those of more dimensions too."""
    heads = tuple(f"{path}." for path in tuned.anatomy.head)
    return {
        name: parameter
        for name, parameter in tuned.trainable().items()
        if ".vitune." in f".{name}"
        and not name.startswith(heads)
        and parameter.dim() >= 2
        and parameter.numel() >= SMALLEST
    }


def _unchanged(tuned: Tuned) -> dict[str, Stored]:
    """Those roundings of before that the model still holds."""
    own = tuned.trainable()
    return {
        name: stored
        for name, stored in tuned.stored.items()
        if name in own and torch.equal(own[name].detach().cpu(), stored.decode().to(own[name].dtype).cpu())
    }


def _effect(tuned: Tuned, stored: Mapping[str, Stored], bits: int) -> Rounding:
    changed = total = 0.0
    weights = 0
    for name, matrix in stored.items():
        before = tuned.model.get_parameter(name).detach().double()
        changed += (matrix.decode().double() - before).square().sum().item()
        total += before.square().sum().item()
        weights += before.numel()
    return Rounding(
        bits=bits,
        tensors=len(stored),
        weights=weights,
        bytes=sum(record_bytes(matrix.code.index.numel(), bits) for matrix in stored.values()),
        float_bytes=4 * weights,
        relative_error=(changed / total) ** 0.5 if total else 0.0,
    )

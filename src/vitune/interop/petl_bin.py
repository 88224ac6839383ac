"""The checkpoints that the authors of Bi-AdaptFormer and Bi-LoRA publish, read and written byte for byte.

JieShibo/PETL-ViT @ 026e4f1, `binary_adapter/models_bin`. A `.bin` file has neither header nor names: per block `down`,
`up` (Bi-AdaptFormer) or `q.down`, `q.up`, `v.down`, `v.up` (Bi-LoRA), each a record as in `vitune.ops.stored`; then the
head, in full (weight, bias: float32) or as one more record of 1 bit. The scale is not in it, but in a YAML file beside
it. The networks were trained on images in [0, 1], without normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, anatomy
from vitune.durable import replace_file
from vitune.errors import AdapterError, UnsupportedBackboneError
from vitune.methods import BiAdaptFormer, BiLoRA
from vitune.ops.quantiser import Quantiser, quantisers
from vitune.ops.stored import Stored, record_bytes
from vitune.surgery import Attach, AttachAtPoint, layer_path
from vitune.tuned import Tuned, apply

BiMethod = BiAdaptFormer | BiLoRA
Bits = Literal[1, 2, 4, 8]


def export_bin(tuned: Tuned, path: str | Path) -> Path:
    """Write a `.bin` file that the authors' code reads.

    Args:
        tuned: A model with Bi-AdaptFormer or Bi-LoRA alone, on q and v.
        path: The file.

    Returns:
        The file.

    Raises:
        AdapterError: If the model is another, its weights do not fill whole bytes, or the file cannot be written.
    """
    path = Path(path)
    data = torch.cat(list(_records(tuned, _method_of(tuned)))).numpy().tobytes()
    try:
        replace_file(path, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        raise AdapterError(f"cannot write '{path}': {error.strerror or error}.") from error
    return path


def import_bin(
    path: str | Path,
    model: nn.Module,
    *,
    scale: float,
    bits: Bits = 1,
    method: BiMethod | None = None,
) -> Tuned:
    """Put a published `.bin` file on a backbone.

    Exporting the result gives the very same bytes.

    Args:
        path: The file.
        model: The plain backbone, with a head for the file's classes; edited in place.
        scale: The factor s, which the file does not hold.
        bits: Of each weight; all published files have 1.
        method: Which method, of which size, with which head; found out from the file's length if not given, and
            needed where two would have the same length.

    Returns:
        The tuned model, in `eval()` mode.

    Raises:
        AdapterError: If the file cannot be read, or is of a length that no method, or more than one, explains.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise AdapterError(f"cannot read '{path}': {error.strerror or error}.") from None
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(0, dtype=torch.uint8)
    chosen = method or _only_reading(path, len(data), anatomy(model), bits)
    tuned = apply(model, replace(chosen, scale=scale, bits=bits), check=False)
    try:
        _fill(tuned, data, path)
    except BaseException:
        tuned.detach()
        raise
    tuned.model.eval()
    return tuned


def readings(size: int, *, width: int, depth: int, classes: int, bits: Bits = 1) -> list[BiMethod]:
    """Every method whose file for a plain ViT has so many bytes; the scale is left at its default.

    Args:
        size: Bytes of the file.
        width: Channels of the backbone.
        depth: Blocks of the backbone.
        classes: Rows of the head.
        bits: Of each weight.
    """
    found: list[BiMethod] = []
    for binary_head in (False, True):
        head = record_bytes(classes * width, 1) if binary_head else 4 * classes * (width + 1)
        for matrices in (2 * depth, 4 * depth):
            left, rest = divmod(size - head, matrices)
            narrow, part = divmod(8 * (left - record_bytes(0, bits)), width * bits)
            if rest or part or narrow < 1:
                continue
            if matrices == 2 * depth:
                found.append(BiAdaptFormer(bottleneck=narrow, bits=bits, binary_head=binary_head))
            else:
                found.append(BiLoRA(rank=narrow, bits=bits, binary_head=binary_head))
    return found


def _only_reading(path: Path, size: int, found: Anatomy, bits: Bits) -> BiMethod:
    classes = _head(found).out_features
    about = f"{bits} bits, {len(found.blocks)} blocks of width {found.width} and {classes} classes"
    options = readings(size, width=found.width, depth=len(found.blocks), classes=classes, bits=bits)
    if not options:
        raise AdapterError(
            f"no Bi-AdaptFormer or Bi-LoRA with {about} makes a file of {size} bytes like '{path}'; is the number of "
            f"classes right?"
        )
    if len(options) > 1:
        texts = " or ".join(_described(option) for option in options)
        raise AdapterError(f"'{path}' with {about} could be {texts}; say which, as method=.")
    return options[0]


def _described(method: BiMethod) -> str:
    size = method.bottleneck if isinstance(method, BiAdaptFormer) else method.rank
    return f"{method.title} of size {size} with a {'1-bit' if method.binary_head else 'float'} head"


def _method_of(tuned: Tuned) -> BiMethod:
    names = ", ".join(method.name for method in tuned.methods)
    method = tuned.methods[0] if len(tuned.methods) == 1 else None
    if not isinstance(method, (BiAdaptFormer, BiLoRA)):
        raise AdapterError(f"a .bin file holds bi_adaptformer or bi_lora alone, and this is '{names}'.")
    if isinstance(method, BiLoRA) and method.roles != ("attn.q", "attn.v"):
        raise AdapterError(
            f"a .bin file holds the updates of q and v, and this bi_lora has roles {'+'.join(method.roles)}."
        )
    if method.bits not in (1, 2, 4, 8):
        raise AdapterError(f"a .bin file holds weights of 1, 2, 4 or 8 bits, and these have {method.bits}.")
    return method


@dataclass(frozen=True)
class _Place:
    """One rounded matrix of a file."""

    name: str
    parameter: nn.Parameter
    quantiser: Quantiser

    @property
    def record_bytes(self) -> int:
        """Its length in the file."""
        if self.parameter.numel() * self.quantiser.bits % 8:
            raise AdapterError(
                f"'{self.name}' has {self.parameter.numel()} weights of {self.quantiser.bits} bits, which do not fill "
                f"whole bytes; a .bin file cannot hold it (an adapter directory can)."
            )
        return record_bytes(self.parameter.numel(), self.quantiser.bits)


def _places(tuned: Tuned) -> Iterator[_Place]:
    """The rounded matrices in the order of the file."""
    rounded, names = quantisers(tuned.model), []
    for step in tuned._steps:  # blocks in order, q before v, the head last
        if isinstance(step, AttachAtPoint):
            names += [f"{layer_path(step)}.{child}.weight" for child in ("down", "up")]
        elif isinstance(step, Attach) and step.parts:
            names += [
                f"{layer_path(step)}.{part}.{child}.weight"
                for _, part in step.parts
                for child in ("down", "up")
            ]
        elif isinstance(step, Attach):
            names.append(f"{step.path}.weight")
    for name in names:
        yield _Place(tuned.anatomy.role_of(name), tuned.model.get_parameter(name), rounded[name])


def _head(found: Anatomy) -> nn.Linear:
    head = found.model.get_submodule(found.head[0]) if len(found.head) == 1 else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UnsupportedBackboneError(
            f"a .bin file goes with one linear head with bias, and this {found.family} has {len(found.head)} heads"
            f"{'' if head is None else ' without bias'}."
        )
    return head


def _records(tuned: Tuned, method: BiMethod) -> Iterator[Tensor]:
    for place in _places(tuned):
        quantiser, length = place.quantiser, place.record_bytes
        record = Stored(quantiser.code(place.parameter), quantiser.bits, quantiser.book).to_bytes()
        assert len(record) == length
        yield record
    if not method.binary_head:
        head = _head(tuned.anatomy)
        for tensor in (head.weight, head.bias):
            yield tensor.detach().float().cpu().contiguous().reshape(-1).view(torch.uint8)


def _fill(tuned: Tuned, data: Tensor, path: Path) -> None:
    """Check the length, then fill."""
    method = _method_of(tuned)
    places, head = list(_places(tuned)), _head(tuned.anatomy)
    floats = [] if method.binary_head else [head.weight, head.bias]
    expected = sum(place.record_bytes for place in places) + 4 * sum(tensor.numel() for tensor in floats)
    if len(data) != expected:
        raise AdapterError(
            f"'{path}' has {len(data)} bytes, and a {_described(method)} makes {expected} on this backbone; "
            f"choose other settings."
        )
    position = 0
    for place in places:
        record = data[position : position + place.record_bytes]
        stored = Stored.from_bytes(record, place.parameter.shape, place.quantiser.bits, place.quantiser.book)
        place.quantiser.hold(place.parameter, stored.code)
        position += place.record_bytes
    with torch.no_grad():
        for tensor in floats:
            length = 4 * math.prod(tensor.shape)
            tensor.copy_(data[position : position + length].clone().view(torch.float32).view(tensor.shape))
            position += length

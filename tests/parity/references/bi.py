"""Bi-AdaptFormer and Bi-LoRA: settings and names; what they store; the codebooks; published checkpoints.

A published checkpoint is checked from the raw `.bin` file beside its golden: decoded bit for bit, and written again.
Where the golden lies alone, the file is made from it, and must have the digest that the golden states.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import verdict
from vitune.interop.petl_bin import export_bin, import_bin, readings
from vitune.ops.codebook import codebook
from vitune.ops.low_bit import Code
from vitune.ops.packing import pack
from vitune.ops.quantiser import Quantiser, quantisers

METHODS = ("bi_adaptformer", "bi_lora")

NAMES = substitution(
    (
        r"(blocks\.\d+)\.adapter_mlp\.adapter_(down|up)\.weight",
        r"\1.vitune.points.mlp_beside.bi_adaptformer.\2.weight",
    ),
    (
        r"(blocks\.\d+\.attn)\.lora_([qv])\.adapter_(down|up)\.weight",
        r"\1.qkv.vitune.bi_lora.\2.\3.weight",
    ),
)


def case(golden: Golden) -> Case:
    hyperparameters = golden.hyperparameters
    kind, size = {"adaptformer": (vitune.BiAdaptFormer, "bottleneck"), "lora": (vitune.BiLoRA, "rank")}[
        hyperparameters["kind"]
    ]
    method = kind(
        bits=hyperparameters["bits"],
        scale=hyperparameters["scale"],
        dropout=hyperparameters.get("dropout", 0.1),
        binary_head=hyperparameters["binary_head"],
        **{size: hyperparameters["dim"]},
    )
    return Case(method, NAMES, aux=_stored)


def _stored(tuned: vitune.Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is on disk, and what a model rebuilt from it computes."""
    method = tuned.methods[0]
    assert isinstance(method, (vitune.BiAdaptFormer, vitune.BiLoRA))
    found: dict[str, Tensor] = {}
    if method.bits != 32:
        book = codebook(method.bits)
        found["code"], found["threshold"] = book.levels, book.thresholds
        found["half_step"] = (book.levels[1:] - book.levels[:-1]) / 2
    rounded = quantisers(tuned.model)
    for path in {name.split("/", 2)[2] for name in tensors if name.startswith("aux/index/")}:
        name = NAMES(f"{path}.weight") or f"{path}.weight"
        code = rounded[name].code(tuned.model.get_parameter(name))
        with torch.no_grad():
            found[f"qweight/{path}"] = rounded[name](tuned.model.get_parameter(name))
        found |= _triple(code, path)
        found[f"decoded/{path}"] = exactly(tensors, f"aux/decoded/{path}", rounded[name].decode(code))
    if method.bits == 32 or any(_left_over(tuned, name, rounded[name]) for name in rounded):
        return found | _reference_file(tuned, tensors, rounded)  # `export_bin` refuses
    with TemporaryDirectory() as folder:
        file = export_bin(tuned, Path(folder) / "model.bin")
        found["packed"] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        plain = copy.deepcopy(tuned).detach()
        again = import_bin(file, plain, scale=method.scale, bits=method.bits, method=method)
    with torch.no_grad():
        found["reloaded_logits"] = again(tensors["input"])
    return found


def _left_over(tuned: vitune.Tuned, name: str, quantiser: Quantiser) -> int:
    """Weights behind the last whole byte; the reference's writer drops them and its reader takes the mean."""
    return tuned.model.get_parameter(name).numel() % (8 // quantiser.bits)


def _reference_file(
    tuned: vitune.Tuned, tensors: Mapping[str, Tensor], rounded: dict[str, Quantiser]
) -> dict[str, Tensor]:
    """The reference's file and what it reads back, where ours refuses to write one.

    Weights in full precision are not in a file at all, and what the reference then computes is not said anywhere.
    """
    method = tuned.methods[0]
    assert isinstance(method, (vitune.BiAdaptFormer, vitune.BiLoRA))
    twin = copy.deepcopy(tuned).detach()
    if method.binary_head:
        torch.nn.init.zeros_(twin.get_parameter("head.bias"))
    again = vitune.apply(twin, replace(method, bits=32, binary_head=False))
    again.model.eval()
    data, found = [], {}
    with torch.no_grad():
        for path in _ordered(
            name.removeprefix("aux/index/") for name in tensors if name.startswith("aux/index/")
        ):
            name = NAMES(f"{path}.weight") or f"{path}.weight"
            quantiser, left = rounded[name], _left_over(tuned, name, rounded[name])
            code = quantiser.code(tuned.model.get_parameter(name))
            data += [_record(code, quantiser.bits, left)]
            weights = quantiser.decode(code)
            weights.view(-1)[weights.numel() - left :] = code.mean
            found[f"decoded/{path}"] = exactly(tensors, f"aux/decoded/{path}", weights)
            again.model.get_parameter(name).copy_(weights)
        if method.bits != 32:
            found["reloaded_logits"] = again(tensors["input"])
    if not method.binary_head:
        data += [_bytes(tuned.model.get_parameter(f"head.{tensor}")) for tensor in ("weight", "bias")]
    return found | {"packed": torch.cat(data)}


def _record(code: Code, bits: int, left: int = 0) -> Tensor:
    whole = code.index.flatten()[: code.index.numel() - left]
    return torch.cat([pack(whole, bits), _bytes(code.mean.view(1)), _bytes(code.std.view(1))])


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _ordered(names: Any) -> list[str]:
    """In the order of a file: by block, `q` before `v`, `down` before `up`, the head last."""

    def place(name: str) -> tuple[float, str]:
        block = re.match(r"blocks\.(\d+)\.", name)
        return (int(block[1]) if block else math.inf, name)

    return sorted(names, key=place)


def _triple(code: Code, path: str) -> dict[str, Tensor]:
    return {
        f"index/{path}": code.index,
        f"mean/{path}": code.mean.reshape(1),
        f"std/{path}": code.std.reshape(1),
    }


def exactly(tensors: Mapping[str, Tensor], name: str, ours: Tensor) -> Tensor:
    """Ours, spoilt where it is not the reference's to the last bit."""
    return ours if name in tensors and torch.equal(ours, tensors[name]) else torch.full_like(ours, torch.nan)


def codebooks(golden: Golden) -> dict[str, Any]:
    """The tables, bit for bit."""
    ours: dict[str, Tensor] = {}
    for bits in (1, 2, 4, 8):
        book = codebook(bits)
        half_steps = (book.levels[1:] - book.levels[:-1]) / 2
        named = {"code": book.levels, "threshold": book.thresholds, "half_step": half_steps}
        ours |= {f"{name}_b{bits}": tensor for name, tensor in named.items()}
    ours = {name: exactly(golden.tensors, name, tensor) for name, tensor in ours.items()}
    return verdict(golden, ours, set())


def published(golden: Golden) -> dict[str, Any]:
    """Decoded bit for bit, on a backbone of the right widths, and written byte for byte."""
    if golden.path is None or not golden.case.startswith("published/"):
        raise ValueError("nothing is known about kind '' of method 'bi'")
    backbone, method = golden.backbone, case(golden).method
    assert isinstance(method, (vitune.BiAdaptFormer, vitune.BiLoRA))
    file = golden.path.with_suffix(".bin")
    data = file.read_bytes() if file.exists() else made_from(golden, method)
    digest = golden.metadata.get("sha256_bin")
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the bytes have another digest than the golden states")
    model = VisionTransformer(  # of the file's widths and depth; its own weights do not matter
        img_size=32,
        embed_dim=backbone["embed_dim"],
        depth=backbone["depth"],
        num_heads=1,
        num_classes=backbone["num_classes"],
        mlp_ratio=0.01,
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "published.bin"
        file.write_bytes(data)
        sizes = {
            "width": backbone["embed_dim"],
            "depth": backbone["depth"],
            "classes": backbone["num_classes"],
        }
        alone = (
            len(readings(len(data), bits=method.bits, **sizes)) == 1
        )  # a length may fit two in small models
        named = None if alone else replace(method, dropout=type(method)().dropout)
        tuned = import_bin(file, model, scale=method.scale, bits=method.bits, method=named)
        if tuned.methods[0] != replace(method, dropout=tuned.methods[0].dropout):
            raise ValueError(f"the file was read as {tuned.methods[0]}")
        if export_bin(tuned, Path(folder) / "again.bin").read_bytes() != data:
            raise ValueError("exporting what was imported gives other bytes")
    rounded = quantisers(tuned.model)
    ours: dict[str, Tensor] = {}
    for reference in [name for name in golden.tensors if not name.startswith("aux/")]:
        name = NAMES(reference) or reference
        parameter = tuned.model.get_parameter(name).detach()
        if name in rounded:
            code = rounded[name].code(tuned.model.get_parameter(name))
            ours |= {f"aux/{key}": value for key, value in _triple(code, reference).items()}
            parameter = rounded[name].decode(code)
        ours[reference] = exactly(golden.tensors, reference, parameter)
    return verdict(golden, ours, set())


def made_from(golden: Golden, method: vitune.BiAdaptFormer | vitune.BiLoRA) -> bytes:
    """The file that a golden was decoded from; indices that the golden leaves out are those of the nearest levels."""
    tensors, data = golden.tensors, []
    for name in _ordered(key.removeprefix("aux/mean/") for key in tensors if key.startswith("aux/mean/")):
        bits = 1 if name.startswith("head") else method.bits
        mean, std = tensors[f"aux/mean/{name}"], tensors[f"aux/std/{name}"]
        index = tensors.get(f"aux/index/{name}")
        if index is None:
            w_hat = (tensors[name] - mean) / std
            index = (w_hat[..., None] - codebook(bits).levels).abs().argmin(-1).to(torch.uint8)
        data.append(_record(Code(index, mean, std), bits))
    if not method.binary_head:
        data += [_bytes(tensors["head.weight"]), _bytes(tensors["head.bias"])]
    return torch.cat(data).numpy().tobytes()


KINDS = {"codebook": codebooks, "": published}

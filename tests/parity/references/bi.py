"""Bi-AdaptFormer and Bi-LoRA: settings and names; what they store; the codebooks; published checkpoints.

A published checkpoint is checked from the raw `.bin` file beside its golden: decoded bit for bit, and written again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
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
from vitune.interop.petl_bin import export_bin, import_bin
from vitune.ops.codebook import codebook
from vitune.ops.low_bit import Code
from vitune.ops.quantiser import quantisers

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
    if method.bits == 32:  # nothing is rounded, so there is no file
        return found
    with TemporaryDirectory() as folder:
        file = export_bin(tuned, Path(folder) / "model.bin")
        found["packed"] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        plain = copy.deepcopy(tuned).detach()
        again = import_bin(file, plain, scale=method.scale, bits=method.bits, method=method)
    with torch.no_grad():
        found["reloaded_logits"] = again(tensors["input"])
    return found


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
    file = golden.path.with_suffix(".bin")
    backbone, method = golden.backbone, case(golden).method
    assert isinstance(method, (vitune.BiAdaptFormer, vitune.BiLoRA))
    model = VisionTransformer(  # of the file's widths and depth; its own weights do not matter
        img_size=32,
        embed_dim=backbone["embed_dim"],
        depth=backbone["depth"],
        num_classes=backbone["num_classes"],
        mlp_ratio=0.01,
    )
    tuned = import_bin(file, model, scale=method.scale, bits=method.bits)
    if type(tuned.methods[0]) is not type(method) or tuned.methods[0].binary_head != method.binary_head:
        raise ValueError(f"the file was read as {tuned.methods[0]}")
    with TemporaryDirectory() as folder:
        if export_bin(tuned, Path(folder) / "again.bin").read_bytes() != file.read_bytes():
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


KINDS = {"codebook": codebooks, "": published}

"""VeLoRA: single layers in training, two batches in a row, and a whole model under full fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import build, place
from tests.parity.case import Case, none_new
from tests.parity.golden import Golden
from tests.parity.harness import fill, verdict
from vitune.methods.lora import LoRA, LowRank, LowRankEdit
from vitune.methods.ssf import ScaleShift
from vitune.methods.velora.compression import project
from vitune.methods.velora.direction import Direction
from vitune.methods.velora.edits import VeloraDownEdit, VeloraLinearEdit, VeloraScaleShiftEdit
from vitune.surgery import attach

# Module of a block that the reference's wrapper sits in -> role.
WRAPPED = {"mlp": ("mlp.out", "mlp.fc2"), "attn": ("attn.qkv", "attn.qkv")}


def settings(golden: Golden, **further: Any) -> vitune.VeLoRA:
    found = golden.hyperparameters
    init = found.get("init_type", "batch_average_once")
    if init.startswith("ema_"):
        further |= {"init": "ema", "ema_decay": float(init.removeprefix("ema_"))}
    else:
        further["init"] = {"none": "uniform"}.get(init, init)
    if "sub_token_size" in found:
        further["sub_token_size"] = found["sub_token_size"]
    further = {"num_groups": found.get("num_groups"), "scale": found.get("velora_scale", 1.0)} | further
    return vitune.VeLoRA(half=found.get("fp16_projection", False), **further)


def take(direction: Direction, v: Tensor) -> None:
    """A vector that the reference drew, and never changes, is an input."""
    if direction.compression.init == "uniform":
        direction.v.copy_(v.flatten())


def case(golden: Golden) -> Case:
    return Case(settings(golden), none_new)


def model(golden: Golden) -> dict[str, Any]:
    """Everything trains; the vectors of the first batch, which ours learns too, serve the second."""
    params = golden.group("param")
    vectors = [name for name in params if name.endswith(".velora_wrapper.embed")]
    found = {re.fullmatch(r"blocks\.\d+\.(\w+)\..*", name)[1] for name in vectors}  # type: ignore[index]
    method = settings(golden, roles=tuple(WRAPPED[name][0] for name in sorted(found)))
    tuned = vitune.apply(build(golden.backbone), [vitune.Full(), method])
    width, family = tuned.anatomy.width, golden.backbone.get("family", "vit")
    weights = {name: tensor for name, tensor in params.items() if name not in vectors}
    unfilled = fill(tuned.model, weights, {name: place(name, width, family) for name in weights})
    unfilled = {name for name in unfilled if ".vitune.velora." not in name}
    layers = {name: _layer(tuned, name) for name in vectors}
    for name, direction in layers.items():
        take(direction, params[name])
    places = {name: place(name, width, family) for name in golden.group("grad")}
    tuned.model.train()
    trained = tuned.trainable()

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        tuned.model.zero_grad(set_to_none=True)
        logits = tuned(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        gradients = {name: where.of(trained[where.name].grad) for name, where in places.items()}  # type: ignore[arg-type]
        return logits, loss, gradients

    tensors = golden.tensors
    used = {"input", "labels", "aux/input2", "aux/labels2", *(f"param/{name}" for name in weights)}
    logits, loss, gradients = run(tensors["input"], tensors["labels"])
    ours: dict[str, Tensor | None] = {"logits": logits, "loss": loss}
    ours |= {f"grad/{name}": gradient for name, gradient in gradients.items()}
    if "aux/input2" in tensors:
        logits, loss, gradients = run(tensors["aux/input2"], tensors["aux/labels2"])
        ours |= {"aux/logits2": logits, "aux/loss2": loss}
        ours |= {f"aux/grad2/{name}": gradient for name, gradient in gradients.items()}
    for name, direction in layers.items():
        ours[f"param/{name}"] = direction.v.reshape(params[name].shape)
    missing = set(trained) - {where.name for where in places.values()}
    result = verdict(golden, ours, used, missing | unfilled)
    there = {"logits", "loss"} <= tensors.keys() and result["grad_excess"] is not None
    return result | {"ok": result["ok"] and there}


def _layer(tuned: vitune.Tuned, name: str) -> Direction:
    """Where the reference's vector of that name is here."""
    start, wrapped = re.fullmatch(r"(blocks\.\d+)\.(\w+)\.velora_wrapper\.embed", name).groups()  # type: ignore[union-attr]
    found = tuned.model.get_submodule(f"{start}.{WRAPPED[wrapped][1]}.vitune.velora")
    assert isinstance(found, Direction)
    return found


def linear(golden: Golden) -> dict[str, Any]:
    """Several numbers of groups on one layer."""
    tensors, found = golden.tensors, golden.hyperparameters
    batches = sorted(name.removeprefix("input") for name in tensors if name.startswith("input"))
    ours: dict[str, Tensor | None] = {}
    every = found.get("groups", [found.get("num_groups")])
    scales = found.get("scale_per_group", [found.get("velora_scale", 1.0)] * len(every))
    for groups, scale in zip(every, scales, strict=True):
        method = settings(golden, num_groups=groups, scale=scale)
        layer = nn.Linear(*reversed(tensors["weight"].shape), bias="bias" in tensors)
        with torch.no_grad():
            layer.weight.copy_(tensors["weight"])
            if layer.bias is not None:
                layer.bias.copy_(tensors["bias"])
        direction = Direction(method.compression(layer.in_features))
        attach(layer, VeloraLinearEdit, direction)
        here = f"groups{groups}"
        v = tensors[f"{here}/v"]
        take(direction, v)
        for batch in batches:
            layer.zero_grad(set_to_none=True)
            x = tensors[f"input{batch}"].clone().requires_grad_()
            y = layer(x)
            y.backward(tensors[f"grad_output{batch}"])
            z = project(x.detach(), direction.v.to(torch.float16 if method.half else x.dtype), groups)
            ours[f"{here}/output{batch}"] = y
            ours[f"{here}/compressed{batch}"] = z.flatten()
            ours[f"{here}/grad_weight{batch}"] = layer.weight.grad
            ours[f"{here}/grad_input{batch}"] = x.grad
            ours[f"{here}/grad_bias{batch}"] = None if layer.bias is None else layer.bias.grad
        ours[f"{here}/v"] = direction.v.to(v.dtype).reshape(v.shape)
    used = {"weight", "bias", *(f"{kind}{batch}" for batch in batches for kind in ("input", "grad_output"))}
    return _verdict(golden, ours, used)


def lora(golden: Golden) -> dict[str, Any]:
    """A of one layer."""
    tensors, found = golden.tensors, golden.hyperparameters
    outputs, inputs = tensors["base_weight"].shape
    config = LoRA(
        rank=found["r"], alpha=found["lora_alpha"], dropout_at="input", dropout=found.get("dropout", 0.0)
    )
    updates = LowRank(inputs, outputs, ["all"], [None], config)
    base = nn.Linear(inputs, outputs, bias="base_bias" in tensors)
    factors: Any = updates.get_submodule("all")
    targets = {"base_weight": base.weight, "base_bias": base.bias}
    targets |= {"lora_A": factors.down, "lora_B": factors.up}
    with torch.no_grad():
        for name, target in targets.items():
            if name in tensors:
                target.copy_(tensors[name])
    base.requires_grad_(False)
    attach(base, LowRankEdit, updates)
    method = settings(golden)
    direction = Direction(method.compression(inputs))
    attach(updates, VeloraDownEdit, direction)
    take(direction, tensors["v"])
    x = tensors["input"].clone().requires_grad_()
    y = base(x)
    y.backward(tensors["grad_output"])
    ours: dict[str, Tensor | None] = {"output_train": y, "grad_input": x.grad}
    ours |= {"grad_lora_A": factors.down.grad, "grad_lora_B": factors.up.grad}
    ours |= {"v": direction.v.to(tensors["v"].dtype).reshape(tensors["v"].shape)}
    ours["output_eval"] = base.eval()(tensors["input"])
    return _verdict(golden, ours, {"input", "grad_output", *targets})


def ssf(golden: Golden) -> dict[str, Any]:
    """One scale and shift, with the reference's vector."""
    tensors = golden.tensors
    pair = ScaleShift(len(tensors["scale"]), channels_first=False, init_std=0.0)
    direction = Direction(settings(golden).compression(pair.scale.numel()))
    with torch.no_grad():
        pair.scale.copy_(tensors["scale"])
        pair.shift.copy_(tensors["shift"])
        direction.v.copy_(tensors["v"].flatten())
        direction.initialised.fill_(True)
    attach(pair, VeloraScaleShiftEdit, direction)
    x = tensors["input"].clone().requires_grad_()
    y = pair(x)
    y.backward(tensors["grad_output"])
    z = project(x.detach(), direction.v, direction.compression.groups)
    ours: dict[str, Tensor | None] = {"output": y, "compressed": z.reshape(tensors["compressed"].shape)}
    ours |= {"grad_input": x.grad, "grad_scale": pair.scale.grad, "grad_shift": pair.shift.grad}
    return _verdict(golden, ours, {"input", "grad_output", "scale", "shift", "v"})


def _verdict(golden: Golden, ours: dict[str, Tensor | None], used: set[str]) -> dict[str, Any]:
    """Tensors called `GROUP/grad_...` are gradients too; `verdict` knows them by the start of their name."""

    def renamed(name: str) -> str:
        return f"grad/{name}" if "/grad_" in name else name

    tensors = {renamed(name): tensor for name, tensor in golden.tensors.items()}
    golden = Golden(tensors, golden.kind, golden.method, golden.case, golden.backbone, golden.hyperparameters)
    result = verdict(golden, {renamed(name): tensor for name, tensor in ours.items()}, used)
    result["uncompared"] = [name.removeprefix("grad/") for name in result["uncompared"]]
    return result


KINDS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "model": model,
    "linear_op": linear,
    "lora_op": lora,
    "ssf_op": ssf,
}

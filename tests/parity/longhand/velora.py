"""VeLoRA: single layers over several batches, and fully trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

DRAWN = ("uniform", "none")


class Wrapper:
    """The vector of one layer."""

    def __init__(self, size: int, init: str, dtype: torch.dtype = torch.float32) -> None:
        self.init, self.first = init, True
        self.v = F.normalize(torch.rand(size, generator=torch.Generator().manual_seed(5)), dim=0).to(dtype)

    def learn(self, x: Tensor) -> Tensor:
        mean = x.detach().to(self.v.dtype).reshape(-1, len(self.v)).mean(0)
        if self.init == "batch_average" or (self.init not in DRAWN and self.first):
            self.v = F.normalize(mean, dim=0)
        elif self.init.startswith("ema_"):
            decay = float(self.init.removeprefix("ema_"))
            self.v = F.normalize(decay * self.v + (1 - decay) * mean, dim=0)
        self.first = False
        return self.v

    def projected(self, x: Tensor) -> Tensor:
        return x.detach().to(self.v.dtype).reshape(-1, len(self.v)) @ self.v

    def coarse(self, x: Tensor) -> Tensor:
        return (self.projected(x)[:, None] * self.v).reshape(x.shape)


class Compressed(torch.autograd.Function):
    """A linear layer whose weight gradient comes from the coarse input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, coarse: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(weight, coarse)
        ctx.scale = scale
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weight, coarse = ctx.saved_tensors
        dy = gradients[0]
        return dy @ weight, weight_gradient(dy, coarse, ctx.scale), dy.sum((0, 1)), None, None


def weight_gradient(dy: Tensor, coarse: Tensor, scale: float) -> Tensor:
    """Image by image in the type of the coarse input, then summed."""
    return (scale * (dy.to(coarse.dtype).mT @ coarse)).sum(0).float()


def linear(
    path: Path,
    *,
    groups: list[int],
    init: str,
    batches: int,
    bias: bool,
    half: bool = False,
    width: int = 12,
) -> Path:
    """A golden of a layer with several numbers of groups."""
    draw = vit.drawing(0)
    scales = [1.0 + 0.5 * i for i in range(len(groups))]
    inputs = {str(i + 1): draw(2, 3, width, mean=0.5) for i in range(batches)}
    dys = {number: draw(2, 3, 7) for number in inputs}
    weight = draw(7, width)
    tensors = {"weight": weight} | {f"input{n}": x for n, x in inputs.items()}
    tensors |= {f"grad_output{n}": dy for n, dy in dys.items()}
    if bias:
        tensors["bias"] = draw(7)
    for count, scale in zip(groups, scales, strict=True):
        wrapper = Wrapper(width // count, init, torch.float16 if half else torch.float32)
        here = f"groups{count}"
        for number, x in inputs.items():
            wrapper.learn(x)
            dy = dys[number]
            tensors[f"{here}/output{number}"] = F.linear(x, weight, tensors.get("bias"))
            tensors[f"{here}/compressed{number}"] = wrapper.projected(x)
            tensors[f"{here}/grad_weight{number}"] = weight_gradient(dy, wrapper.coarse(x), scale)
            tensors[f"{here}/grad_input{number}"] = dy @ weight
            if bias:
                tensors[f"{here}/grad_bias{number}"] = dy.sum((0, 1))
        tensors[f"{here}/v"] = wrapper.v[None]
    given = {
        "rank": 1,
        "init_type": init,
        "groups": groups,
        "scale_per_group": scales,
        "fp16_projection": half,
    }
    return vit.write(path, tensors, {}, method="velora", hyperparameters=given, kind="linear_op")


def lora(
    path: Path,
    *,
    groups: int,
    rank: int,
    alpha: float,
    scale: float,
    init: str,
    bias: bool,
    half: bool = False,
) -> Path:
    """A golden of A of a LoRA."""
    draw = vit.drawing(0)
    tensors = {"input": draw(2, 3, 12, mean=0.4), "grad_output": draw(2, 3, 5), "base_weight": draw(5, 12)}
    tensors |= {"lora_A": draw(rank, 12), "lora_B": draw(5, rank)}
    if bias:
        tensors["base_bias"] = draw(5)
    x, dy, down, up = (tensors[name] for name in ("input", "grad_output", "lora_A", "lora_B"))
    wrapper, factor = Wrapper(12 // groups, init, torch.float16 if half else torch.float32), alpha / rank
    wrapper.learn(x)
    y = F.linear(x, tensors["base_weight"], tensors.get("base_bias")) + factor * (x @ down.t() @ up.t())
    tensors |= {"output_train": y, "output_eval": y, "v": wrapper.v[None]}
    tensors["grad_input"] = dy @ tensors["base_weight"] + factor * (dy @ up @ down)
    tensors["grad_lora_B"] = factor * torch.einsum("bno,bnr->or", dy, x @ down.t())
    tensors["grad_lora_A"] = weight_gradient(factor * dy @ up, wrapper.coarse(x), scale)
    given = {"num_groups": groups, "velora_scale": scale, "r": rank, "lora_alpha": alpha, "dropout": 0}
    given["fp16_projection"] = half
    return vit.write(
        path, tensors, {}, method="velora", hyperparameters=given | {"init_type": init}, kind="lora_op"
    )


def ssf(path: Path, *, groups: int, scale: float) -> Path:
    """A golden of a scale and shift."""
    draw = vit.drawing(0)
    x, dy, w, b = draw(2, 3, 12), draw(2, 3, 12), draw(12, mean=1.0), draw(12)
    wrapper = Wrapper(12 // groups, "none")
    tensors = {"input": x, "grad_output": dy, "scale": w, "shift": b, "v": wrapper.v}
    tensors |= {"output": x * w + b, "compressed": wrapper.projected(x), "grad_input": dy * w}
    tensors |= {"grad_scale": scale * (dy * wrapper.coarse(x)).sum((0, 1)), "grad_shift": dy.sum((0, 1))}
    given = {"num_groups": groups, "velora_scale": scale}
    return vit.write(path, tensors, {}, method="velora", hyperparameters=given, kind="ssf_op")


def model(
    path: Path, *, groups: int, scale: float, init: str, layers: str = "d", half: bool = False, **changes: Any
) -> Path:
    """A golden of full fine-tuning, two batches in a row."""
    spec = vit.backbone(**changes)
    draw = vit.drawing(0)
    p = vit.weights(spec, draw)
    hidden, width = int(spec["embed_dim"] * spec["mlp_ratio"]), spec["embed_dim"]
    wrapped = {"mlp": hidden} if "d" in layers else {}
    wrapped |= {"attn": width} if "qkv" in layers else {}
    wrappers = {
        f"blocks.{i}.{name}": Wrapper(size // groups, init, torch.float16 if half else torch.float32)
        for i in range(spec["depth"])
        for name, size in wrapped.items()
    }

    def apply(at: str, name: str, x: Tensor) -> Tensor:
        wrapper = wrappers.get(at)
        if wrapper is None:
            return vit.linear(p, name, x)
        wrapper.learn(x)
        return Compressed.apply(x, p[f"{name}.weight"], p[f"{name}.bias"], wrapper.coarse(x), scale)  # type: ignore[return-value]

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = vit.embedded(p, images)
        for at in (f"blocks.{i}" for i in range(spec["depth"])):
            z = vit.norm(p, f"{at}.norm1", x)
            q, k, v = apply(f"{at}.attn", f"{at}.attn.qkv", z).chunk(3, -1)
            x = x + vit.linear(p, f"{at}.attn.proj", vit.attended(q, k, v, spec["num_heads"]))
            z = F.gelu(vit.linear(p, f"{at}.mlp.fc1", vit.norm(p, f"{at}.norm2", x)))
            x = x + apply(f"{at}.mlp", f"{at}.mlp.fc2", z)
        logits = vit.classified(p, x)
        return logits, F.cross_entropy(logits, labels)

    (images, labels), (images2, labels2) = vit.batch(spec, draw), vit.batch(spec, draw, 3)
    names = list(p)
    tensors = vit.trained(p, names, lambda: run(images, labels)) | {"input": images, "labels": labels}
    again = vit.trained(p, names, lambda: run(images2, labels2))
    tensors |= {"aux/input2": images2, "aux/labels2": labels2}
    tensors |= {"aux/logits2": again["logits"], "aux/loss2": again["loss"]}
    tensors |= {f"aux/grad2/{name}": again[f"grad/{name}"] for name in names if name.endswith("weight")}
    vectors = {f"{at}.velora_wrapper.embed": wrapper.v[None] for at, wrapper in wrappers.items()}
    given = {"num_groups": groups, "velora_scale": scale, "layers": layers, "init_type": init, "rank": 1}
    given["fp16_projection"] = half
    return vit.write(path, tensors, p | vectors, method="velora", hyperparameters=given, backbone=spec)

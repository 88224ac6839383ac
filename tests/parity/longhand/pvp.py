"""PVP: four kinds of modules, each with the head it was trained under and with another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

KINDS = ("vpt_deep", "vpt_shallow", "lora", "adapter")


def transfer(
    path: Path,
    *,
    kinds: tuple[str, ...] = KINDS,
    prompts: int = 2,
    rank: int = 3,
    scaling: float = 0.5,
    bottleneck: int = 4,
    activation: str = "ReLU",
    classes: tuple[int, int] = (4, 3),
    **changes: Any,
) -> Path:
    """A golden; classes of pre-training, then of the task."""
    spec = vit.backbone(**changes)
    draw = vit.drawing(0)
    p = vit.weights(spec, draw)
    depth, width = spec["depth"], spec["embed_dim"]
    for name in ("head.weight", "head.bias"):
        del p[name]
    for phase, count in zip(("pretrain", "downstream"), classes, strict=True):
        p |= {f"head_{phase}.weight": draw(count, width), f"head_{phase}.bias": draw(count)}
    shapes = {
        "vpt_deep": {"prompts": (prompts, width)},
        "vpt_shallow": {"prompts": (prompts, width)},
        "lora": {"A_q": (rank, width), "A_v": (rank, width), "B_q": (width, rank), "B_v": (width, rank)},
        "adapter": {"down_w": (bottleneck, width), "down_b": (bottleneck,), "up_w": (width, bottleneck)}
        | {"up_b": (width,)},
    }
    module = {
        kind: {
            name: draw(1 if kind == "vpt_shallow" else depth, *shape) for name, shape in shapes[kind].items()
        }
        for kind in kinds
    }
    images, _ = vit.batch(spec, draw)
    act = {"ReLU": F.relu, "GELU": F.gelu}[activation]

    def features(kind: str) -> Tensor:
        own = module.get(kind, {})
        x, extra = vit.embedded(p, images), 0
        for i in range(depth):
            at = f"blocks.{i}"
            if kind == "vpt_deep" or (kind == "vpt_shallow" and i == 0):
                prompt = own["prompts"][i].expand(len(x), -1, -1)
                x, extra = torch.cat([x[:, :1], prompt, x[:, 1 + extra :]], 1), prompts
            y = vit.norm(p, f"{at}.norm1", x)
            q, k, v = vit.linear(p, f"{at}.attn.qkv", y).chunk(3, -1)
            if kind == "lora":
                q = q + scaling * (y @ own["A_q"][i].t() @ own["B_q"][i].t())
                v = v + scaling * (y @ own["A_v"][i].t() @ own["B_v"][i].t())
            x = x + vit.linear(p, f"{at}.attn.proj", vit.attended(q, k, v, spec["num_heads"]))
            z = vit.mlp(p, at, vit.norm(p, f"{at}.norm2", x))
            if kind == "adapter":
                z = z + act(z @ own["down_w"][i].t() + own["down_b"][i]) @ own["up_w"][i].t() + own["up_b"][i]
            x = x + z
        return vit.norm(p, "norm", x)[:, 0]

    tensors = {"input": images, "logits/none/downstream": vit.linear(p, "head_downstream", features("none"))}
    for kind in kinds:
        for phase in ("pretrain", "downstream"):
            tensors[f"logits/{kind}/{phase}"] = vit.linear(p, f"head_{phase}", features(kind))
        tensors |= {f"module/{kind}/{name}": tensor for name, tensor in module[kind].items()}
    given = {
        "prompt_length": prompts,
        "lora_rank": rank,
        "lora_scaling": scaling,
        "adapter_bottleneck": bottleneck,
    }
    given["adapter"] = f"sequential after the MLP, {activation}, own residual, scale 1"
    given |= {"classes_pretrain": classes[0], "classes_downstream": classes[1]}
    del spec["num_classes"]
    return vit.write(path, tensors, p, method="pvp", hyperparameters=given, backbone=spec, kind="transfer")

"""HST: a frozen ViT read block by block by a pyramid of its own."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

STEM, HEAD = "m_patch_embed1.conv.1", "fc_norm"


def weights(spec: dict[str, Any], hyper: dict[str, Any], draw: vit.Draw) -> vit.Params:
    """All weights and buffers; the backbone's head is not there."""
    p = vit.weights(spec, draw)
    width, widths = spec["embed_dim"], hyper["m_embed_dims"]

    def linear(
        name: str, inputs: int, outputs: int, *, bias: bool = True, kernel: tuple[int, ...] = ()
    ) -> None:
        p[f"{name}.weight"] = draw(outputs, inputs, *kernel)
        if bias:
            p[f"{name}.bias"] = draw(outputs)

    def norm(name: str, size: int, *, affine: bool = True, running: bool = False) -> None:
        if affine:
            p[f"{name}.weight"], p[f"{name}.bias"] = draw(size, mean=1.0), draw(size)
        if running:
            p[f"{name}.running_mean"], p[f"{name}.running_var"] = draw(size), draw(size).abs() + 0.5
            p[f"{name}.num_batches_tracked"] = torch.tensor(0)

    linear("head", widths[-1], spec["num_classes"])
    norm(HEAD, widths[-1], affine=hyper["bn1d_affine"], running=True)
    linear("m_patch_embed1.conv.0", 3, widths[0], bias=False, kernel=(3, 3))
    norm(STEM, widths[0], running=True)
    linear("m_patch_embed1.conv.3", widths[0], widths[0], kernel=(2, 2))
    norm("m_patch_embed1.norm", widths[0])
    k = 0
    for s, c in enumerate(widths):
        linear(f"T_Bridge_{s + 1}", width, c)
        if s:
            linear(f"m_patch_embed{s + 1}.proj", widths[s - 1], c, kernel=(3, 3))
            norm(f"m_patch_embed{s + 1}.norm", c)
        norm(f"m_norm{s + 1}", c)
        for j in range(hyper["m_depths"][s]):
            p[f"m_embeddings.{k}"] = draw(1, hyper["metaG_num"], width)
            norm(f"m_proj_norm{k + 1}", c)
            at, k = f"m_block{s + 1}.{j}", k + 1
            for one in "qkv":
                linear(f"{at}.attn.{one}", c, c, bias=hyper["side_qkv_bias"])
            linear(f"{at}.attn.proj", c, c)
            linear(f"{at}.mlp.fc1", c, int(c * hyper["side_mlp_ratio"]))
            linear(f"{at}.mlp.fc2", int(c * hyper["side_mlp_ratio"]), c)
            norm(f"{at}.norm1", c)
            norm(f"{at}.norm2", c)
    return p


def forward(
    p: vit.Params, spec: dict[str, Any], hyper: dict[str, Any], images: Tensor, training: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and what lies between. In training the running statistics in `p` move."""

    def batch_norm(name: str, x: Tensor, eps: float) -> Tensor:
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        if training:
            p[f"{name}.num_batches_tracked"] += 1
        return F.batch_norm(x, mean, var, p.get(f"{name}.weight"), p.get(f"{name}.bias"), training, 0.1, eps)

    def grouped(x: Tensor, name: str) -> tuple[Tensor, tuple[int, int]]:
        return vit.norm(p, name, x.flatten(2).mT, 1e-5), (x.shape[-2], x.shape[-1])

    grid, meta_count = vit.grid(spec), hyper["metaG_num"]
    x, seen, k = vit.embedded(p, images), {}, 0
    found = images
    for s in range(4):
        at = f"m_patch_embed{s + 1}"
        if s == 0:
            y = F.conv2d(images, p[f"{at}.conv.0.weight"], None, stride=2, padding=1)
            y = F.relu(batch_norm(STEM, y, 1e-5))
            y = F.conv2d(y, p[f"{at}.conv.3.weight"], p[f"{at}.conv.3.bias"], stride=2)
        else:
            y = F.conv2d(found, p[f"{at}.proj.weight"], p[f"{at}.proj.bias"], stride=2, padding=1)
        y, size = grouped(y, f"{at}.norm")
        for j in range(hyper["m_depths"][s]):
            x = torch.cat([p[f"m_embeddings.{k}"].expand(len(x), -1, -1), x], 1)
            x = seen[f"vit_block{k}"] = vit.block(p, f"blocks.{k}", x, spec["num_heads"])
            bridge, block = f"T_Bridge_{s + 1}", f"m_block{s + 1}.{j}"
            meta = vit.norm(p, f"m_proj_norm{k + 1}", vit.linear(p, bridge, x[:, :meta_count]), 1e-5)
            patches = x[:, meta_count + 1 :].mT.unflatten(-1, grid)
            patches = F.interpolate(patches, size=size, mode="bilinear", align_corners=False)
            injected = vit.linear(p, bridge, patches.flatten(2).mT)
            memory = torch.cat([meta, injected.mean(1, keepdim=True)], 1)
            q = vit.linear(p, f"{block}.attn.q", vit.norm(p, f"{block}.norm1", y))
            keys, values = (vit.linear(p, f"{block}.attn.{one}", memory) for one in "kv")
            heads = hyper["m_c_num_heads"][s]
            y = y + vit.linear(p, f"{block}.attn.proj", vit.attended(q, keys, values, heads))
            y = y + injected
            y = y + vit.mlp(p, block, vit.norm(p, f"{block}.norm2", y))
            seen[f"meta{k}"] = meta
            x, k = x[:, meta_count:], k + 1
        found = seen[f"stage{s + 1}"] = vit.norm(p, f"m_norm{s + 1}", y).mT.unflatten(-1, size)
    seen["pooled"] = found.flatten(2).mean(2)
    seen["pooled_bn"] = batch_norm(HEAD, seen["pooled"], 1e-6)
    return vit.linear(p, "head", seen["pooled_bn"]), seen


def golden(path: Path, **options: Any) -> Path:
    """A golden of a classifier."""
    hyper: dict[str, Any] = {
        "m_embed_dims": [4, 6, 8, 10],
        "m_c_num_heads": [2, 2, 4, 5],
        "m_depths": [1, 1, 1, 1],
    }
    hyper |= {"metaG_num": 1, "side_mlp_ratio": 4.0, "side_qkv_bias": True, "bn1d_affine": False}
    hyper |= {"num_stages": 4, "bn1d_eps": 1e-6, "bn_momentum": 0.1}
    hyper |= {name: value for name, value in options.items() if name in hyper}
    hyper["block_indices"] = [end - 1 for end in accumulate(hyper["m_depths"])]
    tiny = {"depth": sum(hyper["m_depths"]), "class_token": True}
    spec = vit.backbone(**tiny | {k: v for k, v in options.items() if k not in hyper})
    draw = vit.drawing(0)
    p = weights(spec, hyper, draw)
    images, labels = vit.batch(spec, draw, 5)
    written = {name: tensor.clone() for name, tensor in p.items()}
    starts = ("m_", "T_Bridge", "head.", "fc_norm.")
    names = [
        name
        for name, tensor in p.items()
        if tensor.is_floating_point()
        and "running" not in name
        and (name.startswith(starts) or (".norm" in name and name.startswith("blocks.")))
    ]
    aux: dict[str, Tensor] = {}

    def run(training: bool) -> tuple[Tensor, Tensor]:
        logits, seen = forward(p, spec, hyper, images, training)
        start = "train_" if training else ""
        kept = {n: t for n, t in seen.items() if not training or not n.startswith(("vit", "meta"))}
        aux.update({f"{start}{name}": tensor.detach() for name, tensor in kept.items()})
        return logits, F.cross_entropy(logits, labels)

    evaluated = vit.trained(p, names, lambda: run(False))
    trained = vit.trained(p, names, lambda: run(True))
    aux |= {"loss_eval": evaluated["loss"], "train_logits": trained["logits"]}
    aux |= {f"grad_eval/{name}": evaluated[f"grad/{name}"] for name in names}
    aux |= {f"after_train_buffer/{n}": t for n, t in p.items() if "running" in n or "tracked" in n}
    tensors = trained | {"logits": evaluated["logits"], "input": images, "labels": labels}
    tensors |= {f"aux/{name}": tensor for name, tensor in aux.items()}
    return vit.write(path, tensors, written, method="hst", hyperparameters=hyper, backbone=spec)

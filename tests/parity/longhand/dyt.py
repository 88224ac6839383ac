"""DyT: adapters beside what is skipped, gates, the training loss, video, dense features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

# Dispatch -> (the adapter's name, the gate's) of each part, in the order of the forward pass.
PARTS = {
    "mlp": (("adaptmlp", "mlp_token_select"),),
    "attention": (("adaptattn", "attn_token_select"),),
    "attention_mlp": (("adaptattn", "attn_token_select"), ("adaptmlp", "mlp_token_select")),
    "layer": (("adaptlayer", "layer_token_select"),),
}


class Model:
    """Weights, and a forward pass that notes what the gates say."""

    def __init__(self, hyper: dict[str, Any], spec: dict[str, Any], draw: vit.Draw) -> None:
        self.hyper, self.spec = hyper, spec
        self.dispatch = hyper["variant"].removesuffix("_dispatch")
        self.p = vit.weights(spec, draw)
        self.new: list[str] = ["head.weight", "head.bias"]
        self.bias: Callable[[int], Tensor] | None = None  # of attention scores
        self.training, self.complete = False, False
        self.gumbel: list[tuple[Tensor, Tensor]] = []
        width, d = spec["embed_dim"], hyper["bottleneck"]
        for i in range(spec["depth"]):
            if "layerscale_init" in hyper:
                self.p |= {f"blocks.{i}.ls{one}.gamma": draw(width, std=0.2, mean=0.8) for one in (1, 2)}
            for adapter, gate in PARTS[self.dispatch]:
                at, tensors = f"blocks.{i}.{adapter}", {}
                if (experts := hyper.get("experts", 1)) > 1:
                    tensors["router.weight"] = draw(experts, width, std=0.5)
                    shapes = {
                        "down_weight": (d, width),
                        "down_bias": (d,),
                        "up_weight": (width, d),
                        "up_bias": (width,),
                    }
                    tensors |= {name: draw(experts, *shape) for name, shape in shapes.items()}
                else:
                    tensors |= {"down_proj.weight": draw(d, width), "down_proj.bias": draw(d)}
                    tensors |= {"up_proj.weight": draw(width, d), "up_proj.bias": draw(width)}
                if hyper["adapter_layernorm"] != "none":
                    tensors["adapter_layer_norm_before.weight"] = draw(width, mean=1.0)
                    tensors["adapter_layer_norm_before.bias"] = draw(width)
                if hyper["scale"] == "learnable":
                    tensors["scale"] = draw(1, mean=0.7)
                found = {f"{at}.{name}": tensor for name, tensor in tensors.items()}
                if i >= hyper.get("keep_layers", 0):
                    found |= {f"blocks.{i}.{gate}.mlp_head.weight": draw(1, width, std=0.5)}
                    found |= {f"blocks.{i}.{gate}.mlp_head.bias": draw(1)}
                self.p |= found
                self.new += found

    def adapter(self, at: str, h: Tensor) -> Tensor:
        p, where = self.p, self.hyper["adapter_layernorm"]
        y = vit.norm(p, f"{at}.adapter_layer_norm_before", h, 1e-5) if where == "in" else h
        if self.hyper.get("experts", 1) > 1:
            score = h.mean(1) @ p[f"{at}.router.weight"].t()
            share = score.softmax(-1) if self.hyper["routing"] == "softmax" else score.sigmoid()
            self.shares.append(share)
            down, up = (torch.einsum("be,eij->bij", share, p[f"{at}.{end}_weight"]) for end in ("down", "up"))
            bias = [(share @ p[f"{at}.{end}_bias"]).unsqueeze(1) for end in ("down", "up")]
            y = F.relu(y @ down.mT + bias[0]) @ up.mT + bias[1]
        else:
            y = vit.linear(p, f"{at}.up_proj", F.relu(vit.linear(p, f"{at}.down_proj", y)))
        y = y * (p[f"{at}.scale"] if self.hyper["scale"] == "learnable" else self.hyper["scale"])
        return vit.norm(p, f"{at}.adapter_layer_norm_before", y, 1e-5) if where == "out" else y

    def gate(self, at: str, h: Tensor) -> Tensor:
        """The mask (B, S, 1), the class token's 1 in front."""
        if f"{at}.mlp_head.weight" not in self.p:
            return torch.ones_like(h[..., :1])
        score = vit.linear(self.p, f"{at}.mlp_head", h[:, 1:])[..., 0]
        y = score.sigmoid()
        if self.training:
            first, second = self.gumbel[len(self.masks)]
            y = ((score + first - second) / self.hyper["tau"]).sigmoid()
        mask = (y > self.hyper["threshold"]).float() - y.detach() + y
        self.logits.append(score)
        self.soft.append(y)
        self.masks.append(mask)
        whole = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)[..., None]
        return torch.ones_like(whole) if self.complete else whole

    def tokens(self, images: Tensor) -> list[Tensor]:
        """The stream after every block."""
        p, heads, kind = self.p, self.spec["num_heads"], self.dispatch
        self.logits, self.soft, self.masks, self.shares = [], [], [], []
        x, outputs = vit.embedded(p, images), []

        def scaled(at: str, y: Tensor) -> Tensor:
            return y * p[f"{at}.gamma"] if f"{at}.gamma" in p else y

        def attention(i: int, x: Tensor, mask: Tensor | None = None) -> Tensor:
            q, k, v = vit.linear(p, f"blocks.{i}.attn.qkv", vit.norm(p, f"blocks.{i}.norm1", x)).chunk(3, -1)
            q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q, k, v))
            score = q @ k.mT / q.shape[-1] ** 0.5
            if self.bias is not None:
                score = score + self.bias(i)
            if mask is not None:
                score = score.masked_fill(mask[:, None, None, :, 0] < 0.5, -torch.inf)
            y = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
            return scaled(f"blocks.{i}.ls1", vit.linear(p, f"blocks.{i}.attn.proj", y))

        def mlp(i: int, h: Tensor) -> Tensor:
            return scaled(f"blocks.{i}.ls2", vit.mlp(p, f"blocks.{i}", vit.norm(p, f"blocks.{i}.norm2", h)))

        for i in range(self.spec["depth"]):
            at, start = f"blocks.{i}", x
            if kind == "layer":
                m = self.gate(f"{at}.layer_token_select", x)
                y = x + attention(i, x, m)
                y = y + mlp(i, y)
                x = x + m * (y - x) + self.adapter(f"{at}.adaptlayer", start)
            else:
                if kind.startswith("attention"):
                    m = self.gate(f"{at}.attn_token_select", x)
                    x = x + m * attention(i, x, m) + self.adapter(f"{at}.adaptattn", start)
                else:
                    x = x + attention(i, x)
                if kind.endswith("mlp"):
                    m = self.gate(f"{at}.mlp_token_select", x)
                    x = x + m * mlp(i, x) + self.adapter(f"{at}.adaptmlp", x)
                else:
                    x = x + mlp(i, x)
            outputs.append(x)
        return outputs

    def noted(self) -> dict[str, Tensor]:
        found = {
            "token_mask": (torch.stack(self.masks, 1) > 0.5).float(),
            "token_logits": torch.stack(self.logits, 1),
        }
        return found | ({"expert_weights": torch.stack(self.shares, 1)} if self.shares else {})


class Video:
    """The pooler over all tokens of a clip; one frame of an image is a clip of one image without it."""

    def __init__(self, model: Model, draw: vit.Draw) -> None:
        self.model, width = model, model.spec["embed_dim"]
        at = "attentive_blocks"
        found = {"query_token": draw(1, 1, width)}
        for one in "qkv":
            found |= {f"{at}.norm_{one}.weight": draw(width, mean=1.0), f"{at}.norm_{one}.bias": draw(width)}
            found[f"{at}.cross_attn.{one}.weight"] = draw(width, width)
        found |= {f"{at}.cross_attn.{one}_bias": draw(width) for one in "qv"}
        found |= {
            f"{at}.cross_attn.proj.weight": draw(width, width),
            f"{at}.cross_attn.proj.bias": draw(width),
        }
        model.p |= found
        model.new += found

    def __call__(self, clips: Tensor) -> Tensor:
        p, at = self.model.p, "attentive_blocks"
        x = vit.norm(p, "norm", self.model.tokens(clips.transpose(1, 2).flatten(0, 1))[-1])
        x = x.reshape(len(clips), -1, x.shape[-1])
        query = p["query_token"].expand(len(clips), -1, -1)
        q, k, v = (
            vit.norm(p, f"{at}.norm_{one}", z) @ p[f"{at}.cross_attn.{one}.weight"].t()
            for one, z in (("q", query), ("k", x), ("v", x))
        )
        q, v = q + p[f"{at}.cross_attn.q_bias"], v + p[f"{at}.cross_attn.v_bias"]
        y = vit.attended(q, k, v, self.model.spec["num_heads"])
        return vit.linear(p, "head", vit.linear(p, f"{at}.cross_attn.proj", y)[:, 0])


def operations(model: Model) -> dict[str, Tensor]:
    """Multiply-accumulates of every image with the tokens that it kept; `tokens` must have run."""
    spec, hyper = model.spec, model.hyper
    width, hidden, d = spec["embed_dim"], int(spec["embed_dim"] * spec["mlp_ratio"]), hyper["bottleneck"]
    down, across = vit.grid(spec)
    n, patch = down * across, spec["patch_size"]
    tokens = n + 1
    base = n * width * 3 * patch * patch + 5 * tokens * width + width * spec["num_classes"]
    around = (
        tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width + 5 * tokens * width
    )
    adapter = 2 * tokens * width * d + 5 * tokens * width * (hyper["adapter_layernorm"] != "none")
    kept = (torch.stack(model.masks, 1) > 0.5).sum(2) + 1
    each = 2 * width * hidden + 5 * width
    depth = spec["depth"]
    plain = base + depth * (around + tokens * each)
    whole = depth - kept.shape[1]  # blocks without a gate
    images = base + depth * (around + adapter) + (kept * each).sum(1) + whole * tokens * each
    return {
        "macs_per_sample": images,
        "macs_all_tokens": torch.tensor(plain + depth * adapter),
        "macs_vanilla": torch.tensor(plain),
        "flops_ratio": images / plain,
    }


def golden(path: Path, *, kind: str = "model", frames: int = 0, **options: Any) -> Path:
    """A golden of kind `model`, `model_train_loss`, `video_eval` or `video_train_loss`."""
    spec, hyper = _split(options)
    draw = vit.drawing(0)
    model = Model(hyper, spec, draw)
    forward = (
        Video(model, draw) if frames else lambda images: vit.classified(model.p, model.tokens(images)[-1])
    )
    images, labels = vit.batch(spec, draw, 3)
    if frames:
        images = draw(2, 3, frames, *images.shape[-2:], std=1.0)
        labels = labels[:2]
    with torch.no_grad():
        logits = forward(images)
        aux = model.noted() | (operations(model) if model.dispatch == "mlp" else {})
        model.complete = True
        aux["logits_complete"] = forward(images)
        if model.shares:
            aux["expert_weights"] = torch.stack(model.shares, 1)
        model.complete = False

    def evaluated() -> tuple[Tensor, Tensor]:
        logits = forward(images)
        return logits, F.cross_entropy(logits, labels)

    def trained() -> tuple[Tensor, Tensor]:
        model.training, model.complete = True, True
        full = forward(images)
        model.complete = False
        dynamic = forward(images)
        teacher = full.detach().log_softmax(-1)
        rate = (torch.stack(model.masks, 1).mean() - hyper["target_ratio"]) ** 2
        terms = {
            "loss_cls": F.cross_entropy(dynamic, labels),
            "loss_complete": F.cross_entropy(full, labels),
            "loss_distill": (teacher.exp() * (teacher - dynamic.log_softmax(-1))).sum() / len(images),
            "loss_rate": rate,
            "loss_rate_weighted": hyper["rate_weight"] * rate,
        }
        aux.update({name: term.detach() for name, term in terms.items()})
        aux.update(logits_train=dynamic.detach(), logits_complete_train=full.detach())
        aux.update(
            mask_train=(torch.stack(model.masks, 1) > 0.5).float(), mask_soft_train=torch.stack(model.soft, 1)
        )
        aux["token_logits_train"] = torch.stack(model.logits, 1)
        model.training = False
        return logits, sum(terms.values()) - rate

    if kind.endswith("train_loss"):
        shape = (2, *aux["token_mask"][:, 0].shape)
        raw = torch.empty(len(model.masks), *shape).exponential_(generator=torch.Generator().manual_seed(3))
        model.gumbel = [(-one[0].log(), -one[1].log()) for one in raw]
        aux |= {f"raw_exponentials/{i}": one for i, one in enumerate(raw)}
        aux |= {f"gumbel{k + 1}": -raw[:, k].log().transpose(0, 1) for k in (0, 1)}
    tensors = vit.trained(model.p, model.new, trained if kind.endswith("train_loss") else evaluated)
    tensors |= {"input": images, "labels": labels} | {f"aux/{name}": tensor for name, tensor in aux.items()}
    return vit.write(path, tensors, model.p, method="dyt", hyperparameters=hyper, backbone=spec, kind=kind)


def features(path: Path, *, out_indices: list[int], **options: Any) -> Path:
    """A golden of dense features."""
    spec, hyper = _split(options)
    hyper["out_indices"] = out_indices
    draw = vit.drawing(0)
    model = Model(hyper, spec, draw)
    p, width, (down, across) = model.p, spec["embed_dim"], vit.grid(spec)
    del p["head.weight"], p["head.bias"], p["norm.weight"], p["norm.bias"]
    offsets = (2 * down - 1) * (2 * across - 1)
    index = torch.full((down * across + 1,) * 2, offsets)
    index[:, 0], index[0, 0] = offsets + 1, offsets + 2
    for a in range(down * across):
        for b in range(down * across):
            rows, columns = a // across - b // across + down - 1, a % across - b % across + across - 1
            index[1 + a, 1 + b] = rows * (2 * across - 1) + columns
    found = {f"fpn1.{i}.{t}": draw(*s) for i in (0, 2) for t, s in _deconvolution(width).items()}
    found |= {f"fpn2.0.{tensor}": draw(*shape) for tensor, shape in _deconvolution(width).items()}
    for i in range(spec["depth"]):
        found[f"blocks.{i}.attn.relative_position_bias_table"] = draw(offsets + 3, spec["num_heads"])
        p[f"blocks.{i}.attn.relative_position_index"] = index
    p |= found
    model.bias = lambda i: p[f"blocks.{i}.attn.relative_position_bias_table"][index].permute(2, 0, 1)
    images, _ = vit.batch(spec, draw)
    aux: dict[str, Tensor] = {}

    def forward() -> tuple[Tensor, Tensor]:
        outputs = model.tokens(images)
        x4, x2, x1, half = (outputs[i][:, 1:].mT.unflatten(-1, (down, across)) for i in out_indices)

        def doubled(x: Tensor, name: str) -> Tensor:
            return F.conv_transpose2d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride=2)

        maps = [
            doubled(F.gelu(doubled(x4, "fpn1.0")), "fpn1.2"),
            doubled(x2, "fpn2.0"),
            x1,
            F.max_pool2d(half, 2),
        ]
        rate = hyper["rate_weight"] * (torch.stack(model.masks).mean() - hyper["target_ratio"]) ** 2
        aux.update({f"feature{i}": one.detach() for i, one in enumerate(maps)}, token_loss=rate.detach())
        return maps[0], rate + sum(one.square().mean() for one in maps)

    names = [name for name in (*model.new, *found) if not name.startswith("head.")]
    tensors = vit.trained(p, names, forward) | {"input": images}
    del tensors["logits"]
    aux |= model.noted()
    tensors |= {f"aux/{name}": tensor for name, tensor in aux.items()}
    return vit.write(path, tensors, p, method="dyt", hyperparameters=hyper, backbone=spec, kind="features")


def _deconvolution(width: int) -> dict[str, tuple[int, ...]]:
    return {"weight": (width, width, 2, 2), "bias": (width,)}


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Backbone and hyperparameters."""
    hyper: dict[str, Any] = {
        "variant": "mlp_dispatch",
        "bottleneck": 4,
        "scale": 0.1,
        "adapter_layernorm": "none",
    }
    hyper |= {"tau": 5.0, "threshold": 0.5, "threshold_strict": True, "target_ratio": 0.5, "rate_weight": 2.0}
    known = {*hyper, "layerscale_init", "experts", "routing", "keep_layers"}
    hyper |= {name: value for name, value in options.items() if name in known}
    tiny = {"patch_size": 8, "num_heads": 2, "embed_dim": 16, "class_token": True, "pool": "cls"}
    return vit.backbone(**tiny | {k: v for k, v in options.items() if k not in known}), hyper

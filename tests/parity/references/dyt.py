"""DyT: settings, names, and how its training loss, its video model and its segmentation features are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import Place, build, place
from tests.parity.case import Case, Names, substitution
from tests.parity.golden import Golden
from tests.parity.harness import compare, fill, verdict
from vitune.methods.dyt import Dispatch, DyT, decisions, kept_tokens, macs
from vitune.methods.dyt.dispatch import nothing_skipped, recorded
from vitune.methods.dyt.moe import MixtureOfBottlenecks
from vitune.methods.dyt.policy import DyTPolicy, active_share
from vitune.methods.dyt.segmentation import DenseFeatures
from vitune.methods.dyt.video import VideoClassifier

DISPATCH: dict[str, Any] = {
    "mlp_dispatch": "mlp",
    "attention_dispatch": "attention",
    "attention_mlp_dispatch": "attention-mlp",
    "layer_dispatch": "layer",
}


def method(golden: Golden) -> DyT:
    """Settings; dropout is off in the goldens."""
    hyper = golden.hyperparameters
    scale = hyper["scale"]
    if not hyper.get("threshold_strict", True):
        raise ValueError("a gate that opens at the threshold itself is not known here")
    if hyper.get("expert_mix", "weights") != "weights" or hyper.get("router_bias", False):
        raise ValueError("experts are mixed by their weights here, by a router without bias")
    return vitune.DyT(
        bottleneck=hyper["bottleneck"],
        scale="learnable" if str(scale).startswith("learnable") else float(scale),
        layernorm=hyper.get("adapter_layernorm", "none"),
        dropout=0.0,
        dispatch=DISPATCH[hyper.get("variant", "mlp_dispatch")],
        first_block=hyper.get("keep_layers", 0),
        target_rate=hyper["target_ratio"],
        rate_weight=hyper["rate_weight"],
        temperature=hyper["tau"],
        threshold=hyper["threshold"],
        experts=hyper.get("experts", 1),
        routing=hyper.get("routing", "softmax"),
    )


# The released code has the dispatch of the MLP alone; the other names are what its own would be called.
ADAPTERS = {"adaptattn": "attn_beside", "adaptmlp": "mlp_beside", "adaptlayer": "beside"}
GATES = {"attn_token_select": "attn_around", "mlp_token_select": "mlp_around", "layer_token_select": "around"}


def names(config: DyT) -> Names:
    rules = []
    for theirs, point in ADAPTERS.items():
        start, ours = rf"(blocks\.\d+)\.{theirs}\.", rf"\1.vitune.points.{point}.dyt."
        rules += [
            (start + r"(down|up)_proj\.(weight|bias)", ours + r"\2.\3"),
            (start + "scale", ours + "scale"),
            (start + r"adapter_layer_norm\w*\.(weight|bias)", ours + rf"norm_{config.layernorm}.\2"),
            (start + r"((?:down|up)_(?:weight|bias)|router\.weight)", ours + r"\2"),
        ]
    for theirs, point in GATES.items():
        gate = rf"\1.vitune.points.{point}.dyt.score.\2"
        rules.append((rf"(blocks\.\d+)\.{theirs}\.mlp_head\.(weight|bias)", gate))
    return substitution(*rules)


def case(golden: Golden) -> Case:
    config = method(golden)
    return Case(config, names(config), aux=lambda tuned, tensors: evaluated(tuned, tensors["input"], config))


def whole(golden: Golden) -> Golden:
    """The golden with a backbone that says all; LayerScale is among the hyperparameters."""
    scale = golden.hyperparameters.get("layerscale_init")
    backbone = golden.backbone if scale is None else golden.backbone | {"init_values": scale}
    return dataclasses.replace(golden, backbone=backbone)


def gates(tuned: vitune.Tuned) -> list[Dispatch]:
    return [module for module in tuned.model.modules() if isinstance(module, Dispatch)]


def evaluated(tuned: vitune.Tuned, images: Tensor, config: DyT) -> dict[str, Tensor]:
    """Masks, scores, complete logits and operations, all of the evaluation mode."""
    found = decisions(tuned, images)
    cost = macs(tuned.anatomy, config, kept_tokens(tuned, images))
    tuned.model.eval()
    with torch.no_grad(), nothing_skipped(gates(tuned)):
        complete = tuned(images)
        shares = expert_weights(tuned, images)  # the reference noted them in the complete pass
    aux = {
        "token_mask": torch.stack([one.mask for one in found.values()], 1),
        "token_logits": torch.stack([one.logits for one in found.values()], 1),
        "logits_complete": complete,
        "macs_per_sample": cost.images,
        "macs_all_tokens": torch.tensor(cost.every_token),
        "macs_vanilla": torch.tensor(cost.plain),
        "flops_ratio": cost.ratios,
    }
    return aux | ({"expert_weights": torch.stack(shares, 1)} if shares else {})


def expert_weights(tuned: vitune.Tuned, images: Tensor) -> list[Tensor]:
    """Weights of the experts (B, E) of every adapter that mixes some."""
    found: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, MixtureOfBottlenecks)
        found.append(module.shares(inputs[0]))

    mixtures = [m for m in tuned.model.modules() if isinstance(m, MixtureOfBottlenecks)]
    hooks = [mixture.register_forward_hook(note) for mixture in mixtures]
    tuned(images)
    for hook in hooks:
        hook.remove()
    return found


class Filled:
    """A module around a tuned model with a golden's weights in it.

    Args:
        golden: The golden.
        wrap: From the tuned model to the module.
        inside: Where the backbone is in the module: "" or "backbone.".
        rename: Names of what the module brings itself.
    """

    def __init__(
        self, golden: Golden, wrap: Callable[[vitune.Tuned], nn.Module], inside: str, rename: Names
    ) -> None:
        self.golden, self.config = golden, method(golden)
        self.tuned = vitune.apply(build(whole(golden).backbone), self.config)
        self.module = wrap(self.tuned)
        new, width = names(self.config), self.tuned.anatomy.width

        def our_place(name: str) -> Place:
            own = rename(name)
            if own is not None:
                return Place(own)
            dispatched = new(name)
            where = Place(dispatched) if dispatched else place(name, width)
            return Place(inside + where.name, where.rows)

        self.places = {name: our_place(name) for name in golden.group("param")}
        self.used = {"input", "labels", *(f"param/{name}" for name in self.places)} & golden.tensors.keys()
        # The head and the final norm of dense features are not used.
        self.unfilled = fill(self.module, golden.group("param"), self.places) - {
            f"{inside}{name}"
            for name in self.tuned.model.state_dict()
            if inside == "backbone." and unused(golden, name)
        }

    def verdict(self, ours: dict[str, Tensor], used: set[str] | None = None) -> dict[str, Any]:
        """Compare tensors, and the gradients that were collected in the module."""
        trained = {n: p.grad for n, p in self.module.named_parameters() if p.grad is not None}
        missing = set(trained)
        ours = dict(ours)
        for name in self.golden.group("grad"):
            where = self.places[name]
            if where.name in trained:
                missing.discard(where.name)
                ours[f"grad/{name}"] = where.of(trained[where.name])
        return verdict(self.golden, ours, self.used | (used or set()), missing | self.unfilled)


def unused(golden: Golden, name: str) -> bool:
    """Whether a weight of the backbone takes no part in dense features."""
    return golden.kind == "features" and name.startswith(("norm.", "head."))


def image_model(golden: Golden) -> Filled:
    return Filled(golden, lambda tuned: tuned.model, "", lambda name: None)


POOLER = substitution(
    (r"query_token", "pooler.query"),
    (r"attentive_blocks\.(norm_[qkv])\.(weight|bias)", r"pooler.\1.\2"),
    (r"attentive_blocks\.cross_attn\.([qv])_bias", r"pooler.\1.bias"),
    (r"attentive_blocks\.cross_attn\.([qkv])\.weight", r"pooler.\1.weight"),
    (r"attentive_blocks\.cross_attn\.proj\.(weight|bias)", r"pooler.out.\1"),
)


def video_model(golden: Golden) -> Filled:
    return Filled(golden, VideoClassifier, "backbone.", POOLER)


def frames(clips: Tensor) -> Tensor:
    """Images (B T, 3, height, width) of clips (B, 3, T, height, width)."""
    return clips.transpose(1, 2).flatten(0, 1)


def evaluated_model(filled: Filled, images: Tensor) -> dict[str, Tensor]:
    """Logits, loss and what the gates do in evaluation mode; gradients of the loss are left in the module."""
    golden, module = filled.golden, filled.module.eval()
    aux = evaluated(filled.tuned, images, filled.config)
    with torch.no_grad(), nothing_skipped(gates(filled.tuned)):
        aux["logits_complete"] = module(golden.tensors["input"])
    ours = {f"aux/{name}": tensor for name, tensor in aux.items()}
    ours["logits"] = module(golden.tensors["input"])
    ours["loss"] = nn.functional.cross_entropy(ours["logits"], golden.tensors["labels"])
    ours["loss"].backward()
    return ours


def check_video(golden: Golden) -> dict[str, Any]:
    """A video model with gates as in evaluation."""
    filled = video_model(golden)
    return filled.verdict(evaluated_model(filled, frames(golden.tensors["input"])))


def check_training(filled: Filled, images: Tensor) -> dict[str, Any]:
    """The sum of the losses that the policy gives, under the golden's noise, and every term of it."""
    golden, module, config = filled.golden, filled.module, filled.config
    ours = evaluated_model(filled, images)
    module.zero_grad(set_to_none=True)
    module.train()
    gumbel = [noise(golden, layer) for layer in range(len(gates(filled.tuned)))]
    for gate, (first, second) in zip(gates(filled.tuned), gumbel, strict=True):
        gate.noise = lambda like, first=first, second=second: first - second
    with torch.no_grad(), recorded(gates(filled.tuned)) as notes:
        module(golden.tensors["input"])
    seen: list[Tensor] = []

    def forward(inputs: Tensor) -> Tensor:
        seen.append(module(inputs))
        return seen[-1]

    policy = filled.tuned.policies[0]
    assert isinstance(policy, DyTPolicy)
    total = torch.zeros(())
    for loss in policy.losses(
        forward, golden.tensors["input"], golden.tensors["labels"], nn.functional.cross_entropy
    ):
        loss.backward()
        total += loss.detach()
    rate = (policy.terms["rate"] - config.target_rate) ** 2
    ours["loss"] = total
    aux = {
        "logits_complete_train": seen[0],
        "logits_train": seen[1],
        "loss_cls": policy.terms["dynamic"],
        "loss_complete": policy.terms["complete"],
        "loss_distill": policy.terms["distillation"],
        "loss_rate": rate,
        "loss_rate_weighted": config.rate_weight * rate,
        "token_logits_train": torch.stack([note[0].logits for note in notes], 1),
        "mask_soft_train": torch.stack([note[0].soft for note in notes], 1),
        "mask_train": torch.stack([note[0].mask for note in notes], 1),
        "gumbel1": torch.stack([first for first, _ in gumbel], 1),
        "gumbel2": torch.stack([second for _, second in gumbel], 1),
    }
    ours |= {f"aux/{name}": tensor for name, tensor in aux.items()}
    draws = {name for name in golden.tensors if name.startswith("aux/raw_exponentials/")}
    return filled.verdict(ours, draws)


def noise(golden: Golden, layer: int) -> tuple[Tensor, Tensor]:
    """The two Gumbel draws of a layer, from its exponential ones where the golden has them."""
    raw = golden.tensors.get(f"aux/raw_exponentials/{layer}")
    if raw is not None:
        return -raw[0].log(), -raw[1].log()
    return golden.tensors["aux/gumbel1"][:, layer], golden.tensors["aux/gumbel2"][:, layer]


def check_image_training(golden: Golden) -> dict[str, Any]:
    return check_training(image_model(golden), golden.tensors["input"])


def check_video_training(golden: Golden) -> dict[str, Any]:
    return check_training(video_model(golden), frames(golden.tensors["input"]))


DENSE = substitution(
    (r"blocks\.(\d+)\.attn\.relative_position_bias_table", r"biases.\1.table"),
    (r"blocks\.(\d+)\.attn\.relative_position_index", r"biases.\1.index"),
    (r"fpn1\.(\d)\.(weight|bias)", r"pyramid.times4.\1.\2"),
    (r"fpn2\.(\d)\.(weight|bias)", r"pyramid.times2.\1.\2"),
)


def check_features(golden: Golden) -> dict[str, Any]:
    """Four maps, and the gradients of the sum of their mean squares and the rate's loss."""
    taps = golden.hyperparameters["out_indices"]
    filled = Filled(golden, lambda tuned: DenseFeatures(tuned, taps), "backbone.", DENSE)
    filled.module.eval()
    with recorded(gates(filled.tuned)) as notes:
        maps = filled.module(golden.tensors["input"])
    masks = [note[0].mask for note in notes]
    rate = filled.config.rate_weight * (active_share(masks) - filled.config.target_rate) ** 2
    loss = rate + torch.stack([one.square().mean() for one in maps]).sum()
    loss.backward()
    ours = {f"aux/feature{i}": one for i, one in enumerate(maps)}
    ours |= {"loss": loss, "aux/token_loss": rate, "aux/token_mask": torch.stack(masks, 1)}
    ours["aux/token_logits"] = torch.stack([note[0].logits for note in notes], 1)
    return filled.verdict(ours)


KINDS = {
    "model": lambda golden: compare(whole(golden), case),
    "model_train_loss": check_image_training,
    "video_eval": check_video,
    "video_train_loss": check_video_training,
    "features": check_features,
}

"""The methods of the contract: every method with several settings, every allowed pair, and what to expect of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import vitune
from tests.contract.families import FAMILIES, Family, backbone
from vitune.methods import parse


@dataclass(frozen=True)
class Case:
    """Methods with settings, as the command line writes them.

    Attributes:
        text: The methods.
        count: Trained parameters outside the head, by the published formula, from the plain model.
        needs: Features a family must have.
        merges: Whether it merges, from the family's name.
    """

    text: str
    count: Callable[[nn.Module], int]
    needs: frozenset[str] = frozenset()
    merges: Callable[[str], bool] = lambda family: True

    def runs_on(self, family: Family) -> bool:
        return self.needs <= family.features

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(method.name for method in parse(self.text))


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers, convolutions and norms outside the head, by path; read off the modules, not the anatomy."""
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.RMSNorm)
    heads = ("head", "head_dist", "classifier")
    found = {n: m for n, m in model.named_modules() if n not in heads}
    return {n: m for n, m in found.items() if isinstance(m, kinds) or type(m).__name__ == "RmsNorm"}


def outputs(layer: nn.Module) -> int:
    return int(layer.weight.shape[0])  # type: ignore[index, union-attr]


def in_blocks(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in layers(model).items() if "blocks." in n or "layers." in n}


def shape(model: nn.Module) -> tuple[int, int]:
    """Width and depth."""
    norms = [m for n, m in in_blocks(model).items() if n.endswith(("norm1", "layernorm_before"))]
    return outputs(norms[0]), len(norms)


def everything(model: nn.Module) -> int:
    heads = ("head.", "head_dist.", "classifier.")
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(heads))


def biases(model: nn.Module) -> int:
    found = (getattr(layer, "bias", None) for layer in layers(model).values())
    return sum(bias.numel() for bias in found if bias is not None)


def query_and_value(rank: int) -> Callable[[nn.Module], int]:
    """baselines.md, LoRA: L * 4 C r."""

    def count(model: nn.Module) -> int:
        width, depth = shape(model)
        return depth * 4 * width * rank

    return count


def noah(rank: int) -> Callable[[nn.Module], int]:
    """baselines.md, NOAH variant: L (C r + 3 C r)."""
    return query_and_value(rank)


def low_rank(rank: int, *ends: str) -> Callable[[nn.Module], int]:
    """r (D_in + D_out) per whole linear layer of the blocks whose path ends so."""

    def count(model: nn.Module) -> int:
        found = [
            m for n, m in in_blocks(model).items() if isinstance(m, nn.Linear) and n.endswith(ends or "")
        ]
        return sum(rank * (layer.in_features + layer.out_features) for layer in found)

    return count


def bottlenecks(width_inside: int, *, bias: bool = True, norm: bool = False, scale: bool = False):
    """baselines.md, AdaptFormer: L (2 C h + h + C), with its options."""

    def count(model: nn.Module) -> int:
        width, depth = shape(model)
        one = 2 * width * width_inside + bias * (width_inside + width) + norm * 2 * width + scale
        return depth * one

    return count


NO_PAIR = ("q_norm", "k_norm", "attn.norm", "mlp.norm", "fc_norm")


def pairs(model: nn.Module) -> int:
    """ssf.md section 7: two numbers per output channel of every operator; one pair where a final norm would be."""
    sites = [outputs(layer) for name, layer in layers(model).items() if not name.endswith(NO_PAIR)]
    if isinstance(getattr(model, "norm", None), nn.Identity):
        sites.append(shape(model)[0])
    return 2 * sum(sites)


def pairs_at(*ends: str) -> Callable[[nn.Module], int]:
    return lambda model: (
        2 * sum(outputs(layer) for name, layer in layers(model).items() if name.endswith(ends))
    )


def both(*counts: Callable[[nn.Module], int]) -> Callable[[nn.Module], int]:
    return lambda model: sum(count(model) for count in counts)


def nothing(model: nn.Module) -> int:
    return 0


def never(family: str) -> bool:
    return False


def ssf_merges(family: str) -> bool:
    """Not the pair where a final norm would be (it lies in front of the pooling); not into RMS norms: no shift."""
    return "norm" in FAMILIES[family].features and family != "rms_swiglu"


HEAD, FUSED = frozenset({"head"}), frozenset({"fused"})
SSF_EXACT = "ssf(init_std=0.0)"

CASES = [
    Case("full", everything),
    Case("linear", nothing, HEAD),
    Case("bitfit", biases),
    Case("lora", query_and_value(8)),
    Case("lora(rank=4,alpha=8.0,dropout=0.1)", query_and_value(4)),
    Case("lora(rank=2,roles=all-linear,dropout=0.1,dropout_at=input)", low_rank(2)),
    Case("lora(rank=3,roles=attn.qkv+mlp.out)", low_rank(3, "attn.qkv", "mlp.fc2"), FUSED),
    Case("lora(rank=2,roles=attn.q+attn.k+attn.v,share_down=true)", noah(2), FUSED),
    Case("ssf", pairs, merges=ssf_merges),
    Case(SSF_EXACT, pairs, merges=ssf_merges),
    Case(
        "ssf(roles=attn.out+norm2)",
        pairs_at("attn.proj", "attention.o_proj", "norm2", "layernorm_after"),
        merges=lambda family: family != "rms_swiglu",
    ),
    Case("adaptformer(bottleneck=4)", bottlenecks(4), merges=never),
    Case(
        "adaptformer(bottleneck=4,placement=sequential,scale=learnable)",
        bottlenecks(4, scale=True),
        merges=never,
    ),
    Case("adaptformer(bottleneck=4,layernorm=in,dropout=0.0)", bottlenecks(4, norm=True), merges=never),
    Case("adaptformer(bottleneck=4,layernorm=out)", bottlenecks(4, norm=True), merges=never),
    Case("adaptformer(bottleneck=8,bias=false,scale=1.0)", bottlenecks(8, bias=False), merges=never),
    Case("bitfit,lora(rank=2)", both(biases, query_and_value(2))),
    Case("bitfit,ssf", both(biases, pairs), merges=ssf_merges),
    Case("bitfit,adaptformer(bottleneck=4)", both(biases, bottlenecks(4)), merges=never),
    Case("lora(rank=2),ssf", both(query_and_value(2), pairs), merges=ssf_merges),
    Case("ssf,lora(rank=2)", both(query_and_value(2), pairs), merges=ssf_merges),
    Case("lora(rank=2),adaptformer(bottleneck=4)", both(query_and_value(2), bottlenecks(4)), merges=never),
    Case("ssf,adaptformer(bottleneck=4)", both(pairs, bottlenecks(4)), merges=never),
]

# One case of each method or more, and one pair.
FEW = [
    "full",
    "linear",
    "bitfit",
    "lora",
    "lora(rank=2,roles=attn.q+attn.k+attn.v,share_down=true)",
    "ssf",
    "adaptformer(bottleneck=4)",
    "adaptformer(bottleneck=4,placement=sequential,scale=learnable)",
    "lora(rank=2),ssf",
]
BY_TEXT = {case.text: case for case in CASES}

# Every setting and pair on three kinds of blocks, the few on every family.
THOROUGH = ("plain", "glu", "hf")
ALL = [
    (case.text, family)
    for case in CASES
    for family, found in FAMILIES.items()
    if case.runs_on(found) and (case.text in FEW or family in THOROUGH)
]
# For checks that take a second each.
SLOW = [(text, "plain") for text in FEW] + [
    ("ssf", "siglip"),
    ("lora", "hf"),
    ("ssf", "hf"),
    ("adaptformer(bottleneck=4)", "hf"),
]


def tune(text: str, family: str) -> vitune.Tuned:
    """A fresh model with the methods applied."""
    return vitune.apply(backbone(family), parse(text), seed=3)


def randomise(tuned: vitune.Tuned, seed: int = 5) -> vitune.Tuned:
    """Move every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return tuned


def labels(batch: int) -> Tensor:
    return torch.arange(batch) % 3


def loss_of(tuned: vitune.Tuned, batch: Tensor) -> Tensor:
    """Cross-entropy; features (B, D) of a model without head are read as scores."""
    return nn.functional.cross_entropy(tuned(batch), labels(len(batch)))


def gradients(tuned: vitune.Tuned, batch: Tensor) -> dict[str, Tensor]:
    """Fresh gradients of everything trained."""
    tuned.model.zero_grad(set_to_none=True)
    loss_of(tuned, batch).backward()
    return {name: p.grad.clone() for name, p in tuned.trainable().items() if p.grad is not None}

"""The methods of the contract: every method with several settings, every allowed pair, and what to expect of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.contract.families import CLASSES, FAMILIES, Family, backbone
from vitune.anatomy import anatomy
from vitune.methods import parse
from vitune.training import moments


@dataclass(frozen=True)
class Case:
    """Methods with settings, as the command line writes them.

    Attributes:
        text: The methods.
        count: Trained parameters outside the head, by the published formula, from the plain model.
        needs: Features a family must have.
        merges: Whether it merges, from the family's name.
        families: The only families it runs on in this suite, by name; None: decided by `FEW` and `THOROUGH`.
        head: Parameters of the head that train, from the plain model; None: all.
        beyond: Features that a family needs whose blocks differ in width or are no transformers; None: not on those.
    """

    text: str
    count: Callable[[nn.Module], int]
    needs: frozenset[str] = frozenset()
    merges: Callable[[str], bool] = lambda family: True
    families: frozenset[str] | None = None
    head: Callable[[nn.Module], int] | None = None
    beyond: frozenset[str] | None = None

    def runs_on(self, family: Family) -> bool:
        reaches = family.uniform or (self.beyond is not None and self.beyond <= family.features)
        return reaches and self.needs <= family.features

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(method.name for method in parse(self.text))


HEADS = ("head", "head.fc", "head_dist", "classifier", "fc", "timm_model.head")
HEADS += ("cls_classifier", "distillation_classifier", "score")


def unused(model: nn.Module) -> tuple[str, ...]:
    """Parts that the class scores do not depend on: CLIP's last norm, SigLIP's pooling."""
    tower = getattr(model, "vision_model", None)
    return ("vision_model.post_layernorm" if hasattr(tower, "pre_layrnorm") else "vision_model.head",)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers, convolutions and norms outside the head, by path; read off the modules, not the anatomy."""
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.RMSNorm)
    # The small MLP that gives Swin v2 its position bias is no layer of the stream.
    found = {n: m for n, m in model.named_modules() if n not in HEADS and ".cpb_mlp." not in n}
    found = {n: m for n, m in found.items() if not n.startswith(unused(model))}
    others = ("RmsNorm", "LlamaRMSNorm")
    return {n: m for n, m in found.items() if isinstance(m, kinds) or type(m).__name__ in others}


def outputs(layer: nn.Module) -> int:
    return int(layer.weight.shape[0])  # type: ignore[index, union-attr]


def in_blocks(model: nn.Module) -> dict[str, nn.Module]:
    found = {n: m for n, m in layers(model).items() if "downsampl" not in n}
    return {n: m for n, m in found.items() if "blocks." in n or "layers." in n or "layer." in n}


def widths(model: nn.Module) -> list[int]:
    """Channels of the residual stream of every block."""
    firsts = ("norm1", "layernorm_before", "layer_norm1", "conv_dw", "dwconv", "input_layernorm")
    found = {n: m for n, m in in_blocks(model).items() if not n.endswith("axial_shift.norm1")}
    return [outputs(m) for n, m in found.items() if n.endswith(firsts)]


def shape(model: nn.Module) -> tuple[int, int]:
    """Width and depth, where all blocks are of one width."""
    found = widths(model)
    assert len(set(found)) == 1
    return found[0], len(found)


def everything(model: nn.Module) -> int:
    left = unused(model)
    found = {n: p for n, p in model.named_parameters() if not n.startswith(left) and "mask_token" not in n}
    return sum(p.numel() for n, p in found.items() if n.rpartition(".")[0] not in HEADS)


def last_blocks(count: int) -> Callable[[nn.Module], int]:
    """Everything from the first tensor of so many last blocks on."""

    def total(model: nn.Module) -> int:
        blocks, names = anatomy(model).blocks, [name for name, _ in model.named_parameters()]
        if count >= len(blocks):
            return everything(model)
        start = next(i for i, name in enumerate(names) if name.startswith(f"{blocks[-count].path}."))
        front = [
            p for n, p in model.named_parameters() if n in names[:start] and not n.startswith(unused(model))
        ]
        return everything(model) - sum(p.numel() for p in front)

    return total


def biases(model: nn.Module) -> int:
    found = (getattr(layer, "bias", None) for layer in layers(model).values())
    apart = (p for n, p in model.named_parameters() if n.endswith(("attn.q_bias", "attn.v_bias")))
    return sum(bias.numel() for bias in (*found, *apart) if bias is not None)


def query_and_value(rank: int) -> Callable[[nn.Module], int]:
    """baselines.md, LoRA: L * 4 C r; with fewer keys and values than queries their rows count."""

    def count(model: nn.Module) -> int:
        if hasattr(model, "score"):
            return low_rank(rank, "q_proj", "v_proj")(model)
        return sum(4 * width * rank for width in widths(model))

    return count


def noah(rank: int) -> Callable[[nn.Module], int]:
    """baselines.md, NOAH variant: L (C r + 3 C r)."""
    return query_and_value(rank)


def low_rank(rank: int, *ends: str) -> Callable[[nn.Module], int]:
    """r (D_in + D_out) per whole linear layer of the blocks whose path ends so."""
    ends += ("mlp.down_proj",) if "mlp.fc2" in ends else ()

    def count(model: nn.Module) -> int:
        found = [
            m for n, m in in_blocks(model).items() if isinstance(m, nn.Linear) and n.endswith(ends or "")
        ]
        return sum(rank * (layer.in_features + layer.out_features) for layer in found)

    return count


def kernels(rank: int) -> Callable[[nn.Module], int]:
    """r (C_out + C_in / groups * h * w) per convolution of the blocks."""

    def count(model: nn.Module) -> int:
        found = [m for n, m in layers(model).items() if re.search(r"blocks\.|^layer\d\.|\.layers\.", n)]
        convolutions = [m for m in found if isinstance(m, nn.Conv2d)]
        return sum(rank * (m.out_channels + m.weight[0].numel()) for m in convolutions)

    return count


def bottlenecks(width_inside: int, *, bias: bool = True, norm: bool = False, scale: bool = False):
    """baselines.md, AdaptFormer: L (2 C h + h + C), with its options."""

    def count(model: nn.Module) -> int:
        each = [
            2 * c * width_inside + bias * (width_inside + c) + norm * 2 * c + scale for c in widths(model)
        ]
        return sum(each)

    return count


def adapters(width_inside: int, per_block: int = 1) -> Callable[[nn.Module], int]:
    """baselines.md, Adapter: 2 C h + h + C each."""
    return lambda model: per_block * bottlenecks(width_inside)(model)


def salient_maps(channels: int, per_block: int = 1) -> Callable[[nn.Module], int]:
    """sct.md section 7: K^2 + K each."""
    return lambda model: shape(model)[1] * per_block * (channels**2 + channels)


def gated(inside: int, *, parts: int = 1, experts: int = 1, norm: bool = False, scale: bool = False):
    """dyt.md section 7: adapters E (2 C d + d + C) + E C for a router where E > 1, and gates C + 1; per part."""

    def one(width: int) -> int:
        adapter = experts * (2 * width * inside + inside + width) + experts * width * (experts > 1)
        return adapter + norm * 2 * width + scale + width + 1

    return lambda model: parts * sum(one(width) for width in widths(model))


NO_PAIR = ("q_norm", "k_norm", "attn.norm", "mlp.norm", "fc_norm", "axial_shift.norm1", "axial_shift.norm2")


def pairs(model: nn.Module) -> int:
    """ssf.md section 7: two numbers per output channel of every operator; one pair where a final norm would be."""
    found = {n: m for n, m in layers(model).items() if not n.endswith(NO_PAIR) and "downsampl" not in n}
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        # Behind the norm of a convolution alone; its shortcut has a norm as well.
        found = {n: m for n, m in layers(model).items() if isinstance(m, nn.BatchNorm2d)}
    if any(n.endswith("axial_shift.conv1") for n in found):
        found = {n: m for n, m in found.items() if not n.startswith("patch_embed")}
    # The norm in the head of ConvNeXt has no pair and trains itself: two numbers per channel as well.
    sites = [outputs(layer) for layer in found.values()]
    if isinstance(getattr(model, "norm", None), nn.Identity) or hasattr(model, "stages"):
        sites.append(widths(model)[-1])
    return 2 * sum(sites)


def pairs_at(*ends: str) -> Callable[[nn.Module], int]:
    return lambda model: (
        2 * sum(outputs(layer) for name, layer in layers(model).items() if name.endswith(ends))
    )


def side_network(*widths: int) -> Callable[[nn.Module], int]:
    """hst.md section 7, one meta token."""

    def count(model: nn.Module) -> int:
        width, depth = shape(model)
        each = depth // len(widths)
        norms_and_meta = (4 + 1) * width * depth
        bridge = sum(width * c + c + 2 * c * each for c in widths)
        stem = 4 * widths[0] ** 2 + 32 * widths[0]
        between = sum(9 * a * b + 3 * b for a, b in itertools.pairwise(widths))
        blocks = sum(each * (12 * c * c + 13 * c) + 2 * c for c in widths)
        return norms_and_meta + bridge + stem + between + blocks

    return count


def allocated(
    *, entries: int, rank: int, lora: tuple[str, ...] = (), adapters: int = 0, vectors: int = 0
) -> Callable[[nn.Module], int]:
    """spt.md section 2.3: modules, whole vectors of the model's width, entries per block, and the class token."""

    def count(model: nn.Module) -> int:
        norms = [m for n, m in in_blocks(model).items() if n.endswith(("norm1", "layernorm_before"))]
        blocks = 0
        for width in map(outputs, norms):
            blocks += adapters * (2 * width * rank + rank + width) + vectors * width + entries
        tokens = ("cls_token", "class_embedding")
        token = [p.numel() for name, p in model.named_parameters() if name.endswith(tokens)]
        return blocks + sum(token) + (low_rank(rank, *lora)(model) if lora else 0)

    return count


def prompts(count: int, *, deep: bool = True, kv: int = 0, segments: int = 0) -> Callable[[nn.Module], int]:
    """vpt.md and e2vpt.md section 7: p D per block, or p D shallow; n D key-value prompts per block; p + p S masks."""

    def total(model: nn.Module) -> int:
        found = widths(model)
        masks = count * (1 + segments) if segments else 0
        return count * sum(found if deep else found[:1]) + kv * sum(found) + masks

    return total


def both(*counts: Callable[[nn.Module], int]) -> Callable[[nn.Module], int]:
    return lambda model: sum(count(model) for count in counts)


def nothing(model: nn.Module) -> int:
    return 0


def never(family: str) -> bool:
    return False


def ssf_merges(family: str) -> bool:
    """Not the pair where a final norm would be, in front of the pooling; not into RMS norms: no shift; not into the qkv
    of Swin v2, whose keys have no bias and are normalised."""
    if family in ("resnet", "hf_clip"):
        return True  # no pair in front of the pooling
    return "norm" in FAMILIES[family].features and family not in ("rms_swiglu", "swinv2", "hf_llama")


HEAD, FUSED = frozenset({"head"}), frozenset({"fused"})
ANY, WITH_POINTS = frozenset(), frozenset({"points"})
DEEP = frozenset({"deep"})
SSF_EXACT = "ssf(init_std=0.0)"
PLAIN = frozenset({"plain", "hf"})
PROMPTED = frozenset({"plain", "registers", "siglip", "qk_norm", "glu", "hf", "hf_features", "swin"})
# Whose attention knows where a token stands, or is of another library.
PLACED = frozenset({"dinov3", "beit", "hf_clip"})
PLACED_TOO = frozenset({"eva02", "hf_beit", "hf_dinov3"})
E2VPT = "e2vpt(prompts=4,kv_prompts=2,segments=8)"

# Some of those whose MLP VeLoRA compresses.
COMPRESSED = frozenset({"plain", "glu", "siglip", "hf", "swin", "mixer", "hf_llama"})

# Models of text.
TEXT = frozenset({"hf_llama"})
ON_TEXT: dict[str, Any] = {"families": TEXT, "beyond": frozenset()}

# Where ALaST finds a class token that attends to every patch.
CLASS_TOKEN = frozenset({"plain", "distilled", "registers", "layer_scale", "qk_norm", "glu"})
CLASS_TOKEN |= {"hf", "hf_deit", "hf_dinov2"}

CASES = [
    Case("full", everything, beyond=ANY),
    Case("linear", nothing, HEAD, beyond=ANY),
    Case("bitfit", biases, beyond=ANY),
    Case("lora", query_and_value(8), beyond=FUSED),
    Case("lora(rank=4,alpha=8.0,dropout=0.1)", query_and_value(4)),
    Case("lora(rank=2,roles=all-linear,dropout=0.1,dropout_at=input)", low_rank(2)),
    Case(
        "lora(rank=2,roles=mlp.in+mlp.out)",
        low_rank(2, "mlp.fc1", "mlp.fc2", "mlp_channels.fc1", "mlp_channels.fc2"),
        families=frozenset({"convnext", "mixer", "swin"}),
        beyond=ANY,
    ),
    Case(
        "lora(rank=2,roles=all-conv)",
        kernels(2),
        families=frozenset({"resnet", "convnext", "as_mlp", "hf_convnext"}),
        beyond=ANY,
    ),
    Case("lora(rank=3,roles=attn.qkv+mlp.out)", low_rank(3, "attn.qkv", "mlp.fc2"), FUSED),
    Case("lora(rank=2,roles=attn.q+attn.k+attn.v,share_down=true)", noah(2), FUSED, beyond=FUSED),
    Case("ssf", pairs, merges=ssf_merges, beyond=ANY),
    Case(SSF_EXACT, pairs, merges=ssf_merges),
    Case(
        "ssf(roles=attn.out+norm2)",
        pairs_at("attn.proj", "attention.o_proj", "norm2", "layernorm_after"),
        merges=lambda family: family != "rms_swiglu",
    ),
    Case("adaptformer(bottleneck=4)", bottlenecks(4), merges=never, beyond=WITH_POINTS),
    Case(
        "adaptformer(bottleneck=4,placement=sequential,scale=learnable)",
        bottlenecks(4, scale=True),
        merges=never,
        beyond=WITH_POINTS,
    ),
    Case("adaptformer(bottleneck=4,layernorm=in,dropout=0.0)", bottlenecks(4, norm=True), merges=never),
    Case("adaptformer(bottleneck=4,layernorm=out)", bottlenecks(4, norm=True), merges=never),
    Case("adaptformer(bottleneck=8,bias=false,scale=1.0)", bottlenecks(8, bias=False), merges=never),
    Case(
        "hst(widths=4+6+8+12,num_heads=1+2+2+3)",
        side_network(4, 6, 8, 12),
        DEEP,
        merges=never,
        head=lambda model: CLASSES * (12 + 1),
    ),
    Case("adapter(bottleneck=4)", adapters(4), merges=never),
    Case("adapter(bottleneck=4,placement=houlsby,activation=quick_gelu)", adapters(4, 2), merges=never),
    Case("sct(channels=4)", salient_maps(4), merges=never),
    Case("sct(channels=4,mode=mlp,scale=0.5,scale_on=input)", salient_maps(4)),
    Case("sct(channels=4,mode=qkv)", salient_maps(4, 2)),
    Case("bi_adaptformer(bottleneck=4)", bottlenecks(4, bias=False), merges=never),
    Case("bi_lora(rank=4,bits=4)", query_and_value(4)),
    Case(
        "bi_lora(rank=2,roles=attn.qkv+mlp.out,bits=8,codebook=converged,binary_head=true)",
        low_rank(2, "attn.qkv", "mlp.fc2"),
        HEAD | FUSED,
        head=lambda model: CLASSES * shape(model)[0],
    ),
    Case(
        "spt(rank=2,structured=mlp.out,vectors=norm1.weight,sparse=attn.q.weight:6+mlp.in.weight:9)",
        allocated(entries=15, rank=2, lora=("mlp.fc2",), vectors=1),
        beyond=FUSED,
    ),
    Case(
        "spt(init=zero_up,rank=2,structured=attn.out,vectors=attn.q.bias,sparse=attn.k.weight:900+norm2.bias:3)",
        allocated(entries=903, rank=2, lora=("attn.proj", "attention.o_proj"), vectors=1),
    ),
    Case(
        "spt(rank=2,structure=adapter,structured=attn.q+attn.v+attn.out,sparse=attn.k.weight:20)",
        allocated(entries=20, rank=2, adapters=3),
        merges=never,
    ),
    Case("dyt(bottleneck=4)", gated(4), merges=never, beyond=WITH_POINTS | FUSED),
    Case(
        "dyt(bottleneck=3,dispatch=attention-mlp,experts=2,scale=learnable,layernorm=in)",
        gated(3, parts=2, experts=2, norm=True, scale=True),
        merges=never,
    ),
    Case("dyt(bottleneck=4,dispatch=layer,complete_pass=none)", gated(4), merges=never),
    Case("vpt(prompts=3)", prompts(3), merges=never, families=PROMPTED | PLACED, beyond=ANY),
    Case("vpt(prompts=3,mode=shallow)", prompts(3, deep=False), merges=never, families=PROMPTED, beyond=ANY),
    Case(E2VPT, prompts(4, kv=2, segments=8), merges=never, families=PROMPTED | PLACED_TOO, beyond=ANY),
    Case("lora(rank=2),vpt(prompts=3)", both(query_and_value(2), prompts(3)), merges=never, families=PLAIN),
    Case(f"ssf,{E2VPT}", both(pairs, prompts(4, kv=2, segments=8)), merges=never, families=PLAIN),
    Case("alast", everything, families=CLASS_TOKEN),
    Case("lora(rank=2),alast(dropped=carried)", query_and_value(2), families=CLASS_TOKEN),
    Case("suffix(k=1,deepest=2)", last_blocks(2), beyond=ANY),
    Case("velora(sub_token_size=8)", everything, beyond=ANY, families=COMPRESSED),
    Case("lora(rank=2),velora(num_groups=4)", query_and_value(2)),
    Case("velora(roles=attn.v+mlp.out,num_groups=8)", everything, **ON_TEXT),
    Case(
        "lora(rank=2,roles=attn.v+mlp.out),velora(num_groups=4)",
        low_rank(2, "v_proj", "down_proj"),
        **ON_TEXT,
    ),
    Case("lora(rank=4),bitfit", both(query_and_value(4), biases), **ON_TEXT),
    Case("ssf(roles=attn.q+mlp.out)", pairs_at("q_proj", "down_proj"), **ON_TEXT),
    Case("bitfit,lora(rank=2)", both(biases, query_and_value(2))),
    Case("bitfit,ssf", both(biases, pairs), merges=ssf_merges),
    Case("bitfit,adaptformer(bottleneck=4)", both(biases, bottlenecks(4)), merges=never),
    Case("lora(rank=2),ssf", both(query_and_value(2), pairs), merges=ssf_merges, beyond=FUSED),
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
    "hst(widths=4+6+8+12,num_heads=1+2+2+3)",
    "adapter(bottleneck=4)",
    "sct(channels=4)",
    "spt(rank=2,structured=mlp.out,vectors=norm1.weight,sparse=attn.q.weight:6+mlp.in.weight:9)",
    "bi_adaptformer(bottleneck=4)",
    "bi_lora(rank=4,bits=4)",
    "dyt(bottleneck=4)",
    "vpt(prompts=3)",
    E2VPT,
    "alast",
    "suffix(k=1,deepest=2)",
    "velora(sub_token_size=8)",
    "lora(rank=2),ssf",
]
BY_TEXT = {case.text: case for case in CASES}

# Every setting and pair on three kinds of blocks, the few on every family.
THOROUGH = ("plain", "glu", "hf")
ALL = [
    (case.text, family)
    for case in CASES
    for family, found in FAMILIES.items()
    if case.runs_on(found)
    and (family in case.families if case.families else case.text in FEW or family in THOROUGH)
]
# For checks that take a second each.
SLOW = [(text, "plain") for text in FEW] + [
    ("ssf", "siglip"),
    ("ssf", "swin"),
    ("adaptformer(bottleneck=4)", "convnext"),
    ("ssf", "mixer"),
    ("ssf", "resnet"),
    ("ssf", "as_mlp"),
    ("lora", "hf"),
    ("ssf", "hf"),
    ("adaptformer(bottleneck=4)", "hf"),
]
SLOW += [
    ("lora(rank=2),ssf", family) for family in ("eva02", "beit", "naflex", "hf_dinov3", "hf_beit", "hf_timm")
]
SLOW += [("adaptformer(bottleneck=4)", family) for family in ("hf_deit", "hf_dinov2", "hf_clip")]
SLOW += [("adaptformer(bottleneck=4)", family) for family in ("hf_siglip", "hf_swin", "hf_convnext")]
SLOW += [("velora(sub_token_size=8)", "hf_llama")]


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


def training_backward(tuned: vitune.Tuned, batch: Tensor) -> None:
    """Fresh gradients of the losses that the methods train with, pass by pass."""
    tuned.model.zero_grad(set_to_none=True)
    targets = labels(len(batch))
    for loss in moments.losses(tuned.policies, tuned, batch, targets, nn.functional.cross_entropy):
        loss.backward()

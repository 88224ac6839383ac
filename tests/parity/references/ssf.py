"""SSF: its settings and the names of its tensors in the references."""

from __future__ import annotations

import re

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden

PAIR = r"ssf_(scale|shift)_"
OURS = r".vitune.ssf."
BLOCK = r"((?:(?:layers|stages)\.\d+\.)?blocks\.\d+)"  # hierarchical backbones have stages
COMMON = (
    (rf"patch_embed\.{PAIR}1", rf"patch_embed.proj{OURS}\1"),
    (rf"patch_embed\.{PAIR}2", rf"patch_embed.norm{OURS}\1"),
    (rf"{BLOCK}\.attn\.{PAIR}1", rf"\1.attn.qkv{OURS}\2"),
    (rf"{BLOCK}\.attn\.{PAIR}2", rf"\1.attn.proj{OURS}\2"),
    (rf"{BLOCK}\.mlp\.{PAIR}([12])", rf"\1.mlp.fc\3{OURS}\2"),
)
NORMS = (rf"{BLOCK}\.{PAIR}([12])", rf"\1.norm\3{OURS}\2")
TOP = (rf"{PAIR}1", rf"norm{OURS}\1")
RULES = {
    "vit": (*COMMON, NORMS, TOP),
    "swin": (*COMMON, NORMS, TOP),
    "convnext": (
        *COMMON,
        (rf"stem\.{PAIR}1", rf"stem.0{OURS}\1"),
        (rf"stem\.{PAIR}2", rf"stem.1{OURS}\1"),
        (rf"(stages\.\d+\.downsample)\.{PAIR}1", rf"\1.0{OURS}\2"),
        (rf"(stages\.\d+\.downsample)\.{PAIR}2", rf"\1.1{OURS}\2"),
        (rf"{BLOCK}\.{PAIR}1", rf"\1.conv_dw{OURS}\2"),
        (rf"{BLOCK}\.{PAIR}2", rf"\1.norm{OURS}\2"),
        (rf"{PAIR}1", rf"norm_pre{OURS}\1"),
    ),
    "as_mlp": (
        *COMMON,
        NORMS,
        (rf"{BLOCK}\.axial_shift\.{PAIR}1", rf"\1.axial_shift.conv1{OURS}\2"),
        (rf"{BLOCK}\.axial_shift\.{PAIR}2", rf"\1.axial_shift.conv2_1{OURS}\2"),
        (rf"{BLOCK}\.axial_shift\.{PAIR}3", rf"\1.axial_shift.conv2_2{OURS}\2"),
        (rf"{BLOCK}\.axial_shift\.{PAIR}4", rf"\1.axial_shift.conv3{OURS}\2"),
        (rf"(layers\.\d+\.downsample)\.{PAIR}1", rf"\1.norm{OURS}\2"),
        TOP,
    ),
}
# Which of the optional pairs a golden has; `downsample` of ours means all that the family knows.
OPTIONAL = {
    "swin": ("patch_merging_pair",),
    "convnext": ("downsample_pairs",),
    "as_mlp": ("patch_merging_pair", "patch_embed_pairs"),
}


def case(golden: Golden) -> Case:
    family = golden.backbone.get("family", "vit")
    rename = substitution(*RULES[family])

    def name(reference: str) -> str | None:
        # The references count the merging of patches in Swin to the stage before it.
        between = re.fullmatch(rf"layers\.(\d+)\.downsample\.{PAIR}1", reference)
        if between and family == "swin":
            return f"layers.{int(between[1]) + 1}.downsample.norm{OURS}{between[2]}"
        return rename(reference)

    return Case(method(family, golden), name)


def method(family: str, golden: Golden) -> vitune.SSF:
    has = {key: bool(golden.backbone.get(key)) for key in OPTIONAL.get(family, ())}
    if len(set(has.values())) <= 1:
        return vitune.SSF(downsample=any(has.values()))
    # One of the two options of AS-MLP: the roles by name.
    inside = (
        "norm1",
        "shift.in",
        "shift.width",
        "shift.height",
        "shift.out",
        "norm2",
        "mlp.in",
        "mlp.out",
        "norm",
    )
    more = ("downsample.*.norm",) if has["patch_merging_pair"] else ("patch_embed", "patch_embed.norm")
    return vitune.SSF(roles=(*inside, *more))

"""SSF: its settings and the names of its tensors in the references."""

from __future__ import annotations

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden


def case(golden: Golden) -> Case:
    pair = r"ssf_(scale|shift)_"
    ours = r".vitune.ssf."
    return Case(
        vitune.SSF(),
        substitution(
            (rf"patch_embed\.{pair}1", rf"patch_embed.proj{ours}\1"),
            (rf"patch_embed\.{pair}2", rf"patch_embed.norm{ours}\1"),
            (rf"(blocks\.\d+)\.{pair}([12])", rf"\1.norm\3{ours}\2"),
            (rf"(blocks\.\d+\.attn)\.{pair}1", rf"\1.qkv{ours}\2"),
            (rf"(blocks\.\d+\.attn)\.{pair}2", rf"\1.proj{ours}\2"),
            (rf"(blocks\.\d+\.mlp)\.{pair}([12])", rf"\1.fc\3{ours}\2"),
            (rf"{pair}1", rf"norm{ours}\1"),
        ),
    )

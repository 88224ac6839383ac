from __future__ import annotations

import pytest
from tests.contract.families import FAMILIES, backbone

from vitune.anatomy import Anatomy, anatomy, tree

PLAIN = """\
timm-vit: 3 x 32 x 32 pixels, 2 x 2 patches, 1 prefix tokens, width 32, 2 blocks, pooling 'token'
  patch_embed  conv 3 -> 32  [patch_embed.proj]
  blocks.0 .. 1  (2 heads)
    norm1        norm 32  [blocks.0.norm1]
    attn.qkv     linear 32 -> 96  rows: q, k, v  [blocks.0.attn.qkv]
    attn.out     linear 32 -> 32  [blocks.0.attn.proj]
    norm2        norm 32  [blocks.0.norm2]
    mlp.in       linear 32 -> 128  [blocks.0.mlp.fc1]
    mlp.out      linear 128 -> 32  [blocks.0.mlp.fc2]
  norm         norm 32  [norm]
  head  head  (always trains)"""


def test_tree_of_the_plain_model():
    assert tree(anatomy(backbone("layer_scale"))) == PLAIN


@pytest.mark.parametrize("family", FAMILIES)
def test_tree_shows_every_operator_once(family):
    found = anatomy(backbone(family))
    text = tree(found)
    for operator in found.operators:
        folded = _is_folded(found, operator.role)
        assert text.count(f"[{operator.path}]") == (0 if folded else 1)
    assert all(f"  head  {path}  (always trains)" in text for path in found.head)


def _is_folded(found: Anatomy, role: str) -> bool:
    """Whether the block before it, in the same stage, has the same operators."""
    if not role.startswith("blocks.") or role.startswith("blocks.0."):
        return False
    index = int(role.split(".")[1])

    def shapes(block: int) -> list[tuple[object, ...]]:
        start = f"blocks.{block}."
        inside = [o for o in found.operators if o.role.startswith(start)]
        return [(o.role.removeprefix(start), o.kind, o.in_features, o.out_features) for o in inside]

    same_stage = found.blocks[index].stage == found.blocks[index - 1].stage
    return same_stage and shapes(index) == shapes(index - 1)


def test_blocks_that_differ_are_drawn_apart():
    model = backbone("plain")
    model.blocks[1].mlp = backbone("glu").blocks[0].mlp
    text = tree(anatomy(model))
    assert "  blocks.0  (2 heads)" in text
    assert "  blocks.1  (2 heads)" in text
    assert "[blocks.1.norm1]" in text

import pytest

from vitune.report.anatomy_columns import Item, bar_of, columns_for, items_of, lanes_of, place_of
from vitune.report.record import EditLine


@pytest.mark.parametrize(
    ("role", "block", "part", "tensor"),
    [
        ("blocks.3.attn.q", 3, "attn.q", ""),
        ("blocks.11.attn.qkv.bias", 11, "attn.qkv", "bias"),
        ("blocks.0", 0, "block", ""),
        ("patch_embed.weight", None, "patch_embed", "weight"),
        ("blocks", None, "blocks", ""),
        ("head", None, "head", ""),
    ],
)
def test_place_of(role: str, block: int | None, part: str, tensor: str) -> None:
    place = place_of(role)
    assert (place.block, place.part, place.tensor) == (block, part, tensor)


def test_columns_beyond_the_usual_appear_only_when_used() -> None:
    usual = columns_for([EditLine("blocks.0.attn.qkv", "ssf", 1)])
    assert usual == ("norm1", "attn.q", "attn.k", "attn.v", "attn.out", "norm2", "mlp.in", "mlp.out")
    more = columns_for(
        [EditLine("blocks.0.mlp.beside", "adaptformer", 1), EditLine("blocks.0.ls1", "train", 1)]
    )
    assert more == (*usual, "mlp.beside", "other")


def test_fused_qkv_covers_three_columns_and_a_block_all() -> None:
    columns = columns_for([])
    (qkv,) = items_of(0, [EditLine("blocks.0.attn.qkv", "ssf", 5)], columns)
    assert columns[qkv.first : qkv.last + 1] == ("attn.q", "attn.k", "attn.v")
    (whole,) = items_of(0, [EditLine("blocks.0", "train", 5)], columns)
    assert (whole.first, whole.last) == (0, len(columns) - 1)


def test_weight_and_bias_of_a_layer_are_one_item() -> None:
    edits = [EditLine("blocks.1.mlp.in.weight", "train", 100), EditLine("blocks.1.mlp.in.bias", "train", 10)]
    (item,) = items_of(1, edits, columns_for(edits))
    assert item.parameters == 110
    assert item.role == "blocks.1.mlp.in.weight + blocks.1.mlp.in.bias"
    assert items_of(0, edits, columns_for(edits)) == []


@pytest.mark.parametrize(
    ("role", "bar"),
    [
        *(("patch_embed.bias", "patch_embed"), ("cls_token", "embeddings"), ("pos_embed", "embeddings")),
        *(
            ("norm", "norm"),
            ("fc_norm", "fc_norm"),
            ("pool.q", "pool"),
            ("head", "head"),
            ("blocks.0.norm1", None),
        ),
    ],
)
def test_bar_of(role: str, bar: str | None) -> None:
    assert bar_of(role) == bar


def test_lanes_part_only_what_overlaps() -> None:
    items = [
        Item(1, 1, "q", "lora", 1),
        Item(3, 3, "v", "lora", 1),
        Item(1, 3, "qkv", "ssf", 1),
        Item(6, 6, "in", "ssf", 1),
    ]
    assert lanes_of(items) == [0, 0, 1, 0]

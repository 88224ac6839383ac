import itertools

import pytest

from vitune.report.anatomy_drawing import WIDTH, AnatomyDrawing, anatomy_drawing
from vitune.report.record import EditLine


def draw(edits: list[EditLine], blocks: int | None = 2, head: int | None = 100) -> AnatomyDrawing:
    drawing = anatomy_drawing(edits, blocks, head)
    assert drawing is not None
    return drawing


def tuned(drawing: AnatomyDrawing) -> list[str]:
    return [cell.tip.split("\n")[0] for cell in drawing.cells if cell.tone is not None]


def test_nothing_known_draws_nothing() -> None:
    assert anatomy_drawing([], 12, None) is None


def test_a_linear_probe_tunes_the_head_alone() -> None:
    drawing = draw([])
    assert tuned(drawing) == ["head"]
    assert [total.text for total in drawing.totals] == ["100"]
    assert drawing.legend == (("trained head", 0),)


def test_every_part_of_every_block_is_there() -> None:
    frozen = [cell for cell in draw([], blocks=12).cells if cell.tip.startswith("block ")]
    assert len(frozen) == 12 * 8


def test_edits_fill_their_cells_with_their_parameters() -> None:
    drawing = draw([EditLine("blocks.0.attn.q", "lora", 1536), EditLine("blocks.1.attn.q", "lora", 1536)])
    cells = [cell for cell in drawing.cells if cell.tone == 0]
    assert [cell.text for cell in cells] == ["1.5k", "1.5k"]
    assert cells[0].x == cells[1].x
    assert cells[0].y < cells[1].y
    assert cells[0].tip == "blocks.0.attn.q\nlora, 1,536 parameters"


def test_the_head_is_not_drawn_twice() -> None:
    drawing = draw([EditLine("head.weight", "train", 90), EditLine("head.bias", "train", 10)])
    assert tuned(drawing) == ["head.weight + head.bias"]
    assert drawing.totals[-1].text == "100"


def test_edits_that_share_columns_lie_above_each_other() -> None:
    drawing = draw(
        [EditLine("blocks.0.attn.q", "lora", 1), EditLine("blocks.0.attn.qkv", "ssf", 2)], blocks=1, head=None
    )
    lora, ssf = (cell for cell in drawing.cells if cell.tone is not None)
    assert lora.y + lora.height <= ssf.y
    assert lora.tone != ssf.tone


def test_all_edits_are_accounted_for() -> None:
    edits = [
        EditLine("cls_token", "train", 3),
        EditLine("patch_embed", "ssf", 5),
        EditLine("blocks.0.ls1.gamma", "train", 7),
        EditLine("blocks.1.mlp.beside", "adaptformer", 11),
        EditLine("something.new", "train", 13),
        EditLine("norm", "ssf", 17),
    ]
    drawing = draw(edits, head=19)
    assert sum(row.parameters for row in drawing.table) == 3 + 5 + 7 + 11 + 13 + 17 + 19
    assert sum(int(total.text) for total in drawing.totals) == 3 + 5 + 7 + 11 + 13 + 17 + 19


def test_the_table_puts_blocks_and_tensors_together() -> None:
    edits = [
        EditLine(f"blocks.{block}.norm1.{tensor}", "train", 192)
        for block in range(3)
        for tensor in ("weight", "bias")
    ]
    (row, _head) = draw(edits, blocks=3).table
    assert (row.part, row.tensors, row.places, row.parameters) == ("norm1", "weight, bias", 3, 6 * 192)
    assert row.edit == "trained in place"


def test_unknown_number_of_blocks_is_taken_from_the_edits() -> None:
    assert draw([EditLine("blocks.4.norm1", "ssf", 1)], blocks=None).description.startswith("5 blocks.")


@pytest.mark.parametrize("blocks", [1, 12, 40])
def test_nothing_leaves_the_drawing_or_overlaps_sideways(blocks: int) -> None:
    edits = [EditLine(f"blocks.{block}.mlp.beside", "adaptformer", 3272) for block in range(blocks)]
    drawing = draw(edits, blocks=blocks)
    assert all(cell.x >= 0 and cell.x + cell.width <= WIDTH for cell in drawing.cells)
    assert all(cell.y >= 0 and cell.y + cell.height <= drawing.height for cell in drawing.cells)
    first_row = sorted((c.x, c.x + c.width) for c in drawing.cells if c.tip.startswith("block 0:"))
    assert len(first_row) == 9
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(first_row))

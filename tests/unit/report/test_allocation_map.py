"""Where the budget of an allocating method went, as a heat map."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitune.report import write_report
from vitune.report.allocation_map import ENTRIES, MODULE, WHOLE, HeatCell, allocation_map
from vitune.report.reading import read_run
from vitune.report.run_section import run_section

from .fake_run import make_run

SETTINGS = {
    "structure": "lora",
    "rank": 4,
    "structured": ["blocks.1.attn.v", "blocks.0.mlp.out"],
    "vectors": ["blocks.0.norm1.weight", "blocks.0.attn.q.bias", "norm.weight"],
    "sparse": ["blocks.1.attn.q.weight:1200", "blocks.0.attn.k.weight:1", "blocks.1.mlp.in.bias:40"],
}


def cells(**changes: object) -> dict[str, HeatCell]:
    found = allocation_map({**SETTINGS, **changes})
    assert found is not None
    return {cell.tip.split()[0]: cell for cell in found.cells}


def test_every_tensor_has_a_cell_with_what_it_got() -> None:
    found = cells()
    assert found["blocks.1.attn.v.weight"].tone == MODULE
    assert found["blocks.1.attn.v.weight"].tip.endswith("\nLoRA of rank 4")
    assert found["blocks.0.attn.q.bias"].tone == WHOLE
    assert found["blocks.1.attn.q.weight"].tone == ENTRIES
    assert found["blocks.1.attn.q.weight"].tip.endswith("\n1,200 entries train")
    assert found["blocks.0.attn.v.weight"].tone is None
    assert found["blocks.0.attn.v.weight"].tip == "blocks.0.attn.v.weight is frozen"
    parts = ("norm1", "attn.q", "attn.k", "attn.v", "attn.out", "norm2", "mlp.in", "mlp.out")
    assert found.keys() == {
        f"blocks.{i}.{part}.{t}" for i in range(2) for part in parts for t in ("weight", "bias")
    }


def test_more_entries_are_darker() -> None:
    found = cells()
    one, some, most = (
        found[f"blocks.{name}"].shade for name in ("0.attn.k.weight", "1.mlp.in.bias", "1.attn.q.weight")
    )
    assert 0.2 < one < some < most == 1.0


def test_cells_do_not_overlap_and_lie_inside() -> None:
    found = allocation_map(SETTINGS, blocks=3)
    assert found is not None
    for cell in found.cells:
        assert cell.x >= 0
        assert cell.y >= 0
        assert cell.x + cell.width <= found.width
        assert cell.y + cell.height <= found.height
    for i, a in enumerate(found.cells):
        for b in found.cells[i + 1 :]:
            apart = (
                a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            )
            assert apart, (a, b)
    assert [(bracket.text, bracket.x >= 26) for bracket in found.brackets] == [
        ("attention", True),
        ("MLP", True),
    ]
    assert {label.text for label in found.labels} >= {"0", "1", "2", "q", "k", "v", "norm"}


def test_words() -> None:
    found = allocation_map(SETTINGS)
    assert found is not None
    assert found.description == (
        "2 blocks. 2 matrices with a LoRA, 2 vectors trained whole, 1,241 single entries in 3 tensors."
    )
    assert found.legend == (("trains whole", 0), ("LoRA of rank 4", 1), ("entry by entry", 2))
    adapters = allocation_map({"structure": "adapter", "rank": 8, "structured": ["blocks.0.attn.v"]})
    assert adapters is not None
    assert adapters.description.startswith("1 block. 1 matrix with an adapter, 0 vectors trained whole")
    assert adapters.legend == (("adapter of 8", 1),)


@pytest.mark.parametrize(
    "settings", [{}, {"rank": 4, "roles": ["attn.q"]}, {"vectors": ["norm.weight"], "sparse": 3}]
)
def test_no_map_where_nothing_was_allocated(settings: dict[str, object]) -> None:
    assert allocation_map(settings) is None


def test_the_page_has_it(tmp_path: Path) -> None:
    changes = {"methods": [{"name": "spt", "settings": SETTINGS}]}
    run = make_run(tmp_path / "a", epochs=1, images=20, changes=changes)
    section = run_section(read_run(run), key="run", label="a", tone=0, most_mistakes=1)
    assert len(section.allocations) == 1
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("Where the budget went, block by block") == 1
    assert "1,200 entries train" in page
    plain = make_run(tmp_path / "b", epochs=1, images=20)
    write_report([plain], tmp_path / "plain.html")
    assert "Where the budget went" not in (tmp_path / "plain.html").read_text()

from pathlib import Path

from vitune.report.costs import cost_groups, costs_side_by_side, memory_parts
from vitune.report.record import Costs, RunRecord


def record(
    method: str = "ssf", own: Costs | None = None, full: Costs | None = None, **memory: int | None
) -> RunRecord:
    own, full = own or Costs(), full or Costs()
    return RunRecord(
        Path("run"), "run", method, costs=own, full_finetuning=full, memory_forecast_bytes=memory
    )


def test_each_cost_stands_beside_full_finetuning() -> None:
    run = record(own=Costs(trained_parameters=50), full=Costs(trained_parameters=5000))
    group = cost_groups(run)[0]
    assert group.beside_full == "100 times fewer than full fine-tuning"
    assert [(bar.label, bar.value, bar.share) for bar in group.bars] == [
        ("this run", "50", 0.01),
        ("full fine-tuning", "5,000", 1.0),
    ]


def test_what_is_unknown_is_not_measured_and_has_no_bar() -> None:
    group = next(group for group in cost_groups(record()) if group.title == "File on disk")
    assert [(bar.value, bar.share) for bar in group.bars] == [("not measured", None)]
    assert group.beside_full is None


def test_several_runs_and_their_common_reference() -> None:
    full = Costs(adapter_bytes=400)
    runs = [("a", 0, record(own=Costs(adapter_bytes=100), full=full)), ("b", 1, record(full=full))]
    (group,) = costs_side_by_side(runs)
    assert group.title == "File on disk"
    assert [(bar.label, bar.share, bar.tone) for bar in group.bars] == [
        ("a", 0.25, 0),
        ("b", None, 1),
        ("full fine-tuning", 1.0, None),
    ]


def test_no_reference_where_runs_disagree_or_one_is_full() -> None:
    own = Costs(adapter_bytes=100)
    different = [("a", 0, record(own=own, full=Costs(adapter_bytes=size))) for size in (400, 500)]
    same = [
        ("a", 0, record(own=own, full=Costs(adapter_bytes=400))),
        ("b", 1, record("full", own, Costs(adapter_bytes=400))),
    ]
    assert [len(group.bars) for group in costs_side_by_side(different)] == [2]
    assert [len(group.bars) for group in costs_side_by_side(same)] == [2]


def test_memory_in_parts() -> None:
    parts = memory_parts(record(weights=30, saved_activations=10))
    assert [(part.label, part.value, part.share) for part in parts] == [
        ("weights", "30 bytes", 0.75),
        ("saved activations", "10 bytes", 0.25),
    ]


def test_memory_with_an_unknown_part_is_not_drawn() -> None:
    assert memory_parts(record(weights=30, gradients=None)) == ()
    assert memory_parts(record()) == ()

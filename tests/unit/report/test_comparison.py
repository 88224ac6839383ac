from pathlib import Path
from typing import Any

from vitune.report.comparison import Comparison, comparison, run_labels
from vitune.report.reading import read_run
from vitune.report.record import RunRecord
from vitune.report.run_section import run_section

from .fake_run import make_run


def compare(*runs: RunRecord) -> Comparison:
    labels = run_labels(runs)
    return comparison(
        [
            run_section(run, key=f"run-{i}", label=label, tone=i, most_mistakes=3)
            for i, (run, label) in enumerate(zip(runs, labels, strict=True))
        ]
    )


def run(tmp_path: Path, method: str, **changes: Any) -> RunRecord:
    return read_run(
        make_run(
            tmp_path / f"{method}{len(list(tmp_path.iterdir()))}",
            method=method,
            epochs=3,
            images=60,
            changes=changes,
        )
    )


def test_labels_are_unique() -> None:
    def named(*pairs: tuple[str, str]) -> list[str]:
        return run_labels([RunRecord(Path("run"), name, method) for name, method in pairs])

    assert named(("a", "ssf"), ("b", "ssf")) == ["a", "b"]
    assert named(("a", "ssf"), ("a", "lora")) == ["a (ssf)", "a (lora)"]
    assert named(("a", "ssf"), ("a", "ssf"), ("a", "ssf")) == ["a (ssf)", "a (ssf) #2", "a (ssf) #3"]


def test_the_table(tmp_path: Path) -> None:
    found = compare(run(tmp_path, "linear"), run(tmp_path, "ssf"))
    assert [row.highest for row in found.rows] == [False, True]
    assert [row.accuracy for row in found.rows] == ["84.2\u00a0%", "91.3\u00a0%"]
    assert found.rows[0].trained == "1,930"
    assert found.rows[0].disk == "10 kB"
    assert found.rows[0].seconds == "12.6 s"
    assert found.same == "60 test images"
    assert found.notes == ()
    assert found.low < 0.842 < 0.913 < found.high


def test_charts(tmp_path: Path) -> None:
    found = compare(run(tmp_path, "linear"), run(tmp_path, "ssf"), run(tmp_path, "full"))
    assert [chart.title for chart in found.scatters] == [
        "Accuracy against trained parameters",
        "Accuracy against saved activations",
    ]
    assert [len(chart.lines) for chart in found.curves] == [3, 3, 3]
    assert len(found.costs) == 6


def test_runs_on_different_splits_are_said_to_be_incomparable(tmp_path: Path) -> None:
    found = compare(
        run(tmp_path, "ssf"), run(tmp_path, "lora(rank=4)", metrics={"val": {"accuracy": 0.95, "n": 20}})
    )
    assert found.same is None
    assert [row.measured_on for row in found.rows] == ["60 test images", "20 validation images"]
    assert found.notes == (
        "The runs were not evaluated on the same split: compare their accuracies with care.",
    )
    assert not any(row.highest for row in found.rows), "a highest of unlike numbers would mislead"


def test_different_data_and_protocols_are_noted(tmp_path: Path) -> None:
    found = compare(
        run(tmp_path, "ssf"),
        run(tmp_path, "full", data={"path": "elsewhere"}, protocol="another", model={"name": "other"}),
    )
    assert found.notes == (
        "The runs used different data.",
        "The runs used different backbones.",
        "The runs used different protocols.",
    )


def test_runs_without_anything(tmp_path: Path) -> None:
    empty = RunRecord(tmp_path, "a", "ssf")
    found = compare(empty, empty)
    assert [row.accuracy for row in found.rows] == ["not measured", "not measured"]
    assert (found.scatters, found.curves, found.costs) == ((), (), ())

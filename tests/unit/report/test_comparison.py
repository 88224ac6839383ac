from pathlib import Path
from typing import Any

import numpy as np

from vitune.measure import wilson
from vitune.report.comparison import Comparison, clearly_highest, comparison, run_labels
from vitune.report.reading import read_run
from vitune.report.record import Metric, Predictions, RunRecord
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
    assert [row.accuracy for row in found.rows] == ["84.2\u00a0%", "91.3\u00a0%"]
    assert found.rows[0].trained == "1,930"
    assert found.rows[0].disk == "10 kB"
    assert found.rows[0].seconds == "12.6 s"
    assert found.same == "60 test images"
    assert [row.highest for row in found.rows] == [False, True]
    assert found.notes == ()
    assert found.low < 0.842 < 0.913 < found.high


def metric(accuracy: float, low: float, high: float) -> dict[str, Metric]:
    return {"test": Metric(accuracy, low, high, 100)}


def test_the_highest_is_marked_where_its_interval_is_clear_of_the_runner_up() -> None:
    first = RunRecord(Path("a"), "a", "ssf", metrics=metric(0.9, 0.86, 0.93))
    below = RunRecord(Path("b"), "b", "lora", metrics=metric(0.8, 0.75, 0.85))
    touching = RunRecord(Path("c"), "c", "full", metrics=metric(0.85, 0.8, 0.87))
    assert clearly_highest([below, first], "test") is first
    assert clearly_highest([below, first, touching], "test") is None
    assert clearly_highest([first], "test") is None


def test_the_same_images_are_compared_one_by_one() -> None:
    label = np.zeros(200, dtype=np.int64)
    # 20 of 200 more images right, and none the other way: clear in pairs, though the intervals overlap.
    names = tuple(map(str, range(200)))
    wrong = {"a": 40, "b": 60}
    runs = [
        RunRecord(
            Path(name),
            name,
            name,
            metrics=metric(1 - count / 200, *wilson(200 - count, 200)),
            predictions=Predictions(label, (np.arange(200) < count).astype(np.int64), None, names, "test"),
        )
        for name, count in wrong.items()
    ]
    assert runs[0].metrics["test"].low < runs[1].metrics["test"].high  # type: ignore[operator]
    assert clearly_highest(runs, "test") is runs[0]


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
    assert not any(row.highest for row in found.rows)
    assert found.notes == (
        "No run is marked as the highest: the two with the highest accuracies cannot be told apart on these images.",
        "The runs used different data.",
        "The runs used different backbones.",
        "The runs used different protocols.",
    )


def test_runs_without_anything(tmp_path: Path) -> None:
    empty = RunRecord(tmp_path, "a", "ssf")
    found = compare(empty, empty)
    assert [row.accuracy for row in found.rows] == ["not measured", "not measured"]
    assert (found.scatters, found.curves, found.costs) == ((), (), ())

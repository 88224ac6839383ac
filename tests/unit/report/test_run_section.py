from pathlib import Path

from vitune.report.reading import read_run
from vitune.report.record import Metric, RunRecord
from vitune.report.run_section import interval_words, run_section

from .fake_run import make_run


def section(run: RunRecord):
    return run_section(run, key="run", label=run.name, tone=0, most_mistakes=5)


def test_a_whole_run(tmp_path: Path) -> None:
    found = section(read_run(make_run(tmp_path / "a", epochs=5, images=200, changes={"best_epoch": 4})))
    assert [chart.title for chart in found.curves] == ["Loss", "Validation accuracy", "Learning rate"]
    assert found.curves[0].mark is not None
    assert found.curves[2].x_label == "step"
    assert len(found.mistakes) == 5
    assert found.headlines[0].accuracy == "91.3\u00a0%"
    assert found.headlines[0].images == "200"
    facts = dict(found.facts)
    assert facts["Images"] == "800 training, 200 validation, 10,000 test"
    assert facts["Best epoch"] == "4"
    assert facts["Training time"] == "21 s"


def test_test_accuracy_comes_first(tmp_path: Path) -> None:
    metrics = {"val": {"accuracy": 0.8}, "test": {"accuracy": 0.7}}
    found = section(read_run(make_run(tmp_path / "a", epochs=1, images=20, changes={"metrics": metrics})))
    assert [(h.split, h.accuracy) for h in found.headlines] == [
        ("test", "70.0\u00a0%"),
        ("validation", "80.0\u00a0%"),
    ]


def test_a_run_that_knows_nothing() -> None:
    found = section(RunRecord(Path("run"), "run", "ssf"))
    assert (found.headlines, found.drawing, found.curves) == ((), None, ())
    assert (found.confusion, found.mistakes, found.memory) == (None, (), ())
    assert dict(found.facts)["Backbone"] == "not recorded"


def test_the_learning_rate_is_drawn_by_epoch_where_the_log_has_few_steps(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "a", epochs=3, images=20, changes={"lr": 0.003})
    epochs = [
        line for line in (directory / "log.jsonl").read_text().splitlines() if '"epoch", "epoch"' in line
    ]
    few = [*epochs, '{"event": "step", "step": 10, "lr": 0.1}']
    (directory / "log.jsonl").write_text("\n".join(few))
    found = section(read_run(directory))
    assert found.curves[2].x_label == "epoch"
    assert len(found.curves[2].hits) == 3
    assert dict(found.facts)["Learning rate"] == "0.003"


def test_interval_words() -> None:
    assert interval_words(Metric(0.5, 0.41, 0.59)) == "41.0 to 59.0\u00a0%"
    assert interval_words(Metric(0.5)) == "not measured"

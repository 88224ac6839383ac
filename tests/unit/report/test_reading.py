import json
from pathlib import Path
from typing import Any

import pytest

from vitune.errors import RunError
from vitune.report.reading import read_run

from .fake_run import CIFAR, make_run


def test_a_whole_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", name="my run", images=50, epochs=3))
    assert (run.name, run.method, run.blocks, run.seed) == ("my run", "ssf", 12, 0)
    assert run.methods[0][0] == "ssf"
    assert run.metrics["test"].accuracy == 0.913
    assert "val" not in run.metrics, "a split that was not evaluated has no metric"
    assert run.headline() == ("test", run.metrics["test"])
    assert run.costs.trained_parameters == 384 + 12 * 4224 + 384 + 1930
    assert len(run.edits) == 2 + 12 * 6
    assert run.class_names == CIFAR
    assert run.log is not None
    assert len(run.log.epochs) == 3
    assert run.predictions is not None
    assert len(run.predictions.label) == 50
    assert run.notes == ()


def test_result_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"format": 1}')
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert run.method == "unknown method"
    assert run.costs.trained_parameters is None
    assert run.headline() is None
    assert (run.config, run.log, run.predictions, run.edits) == (None, None, None, ())
    assert [note.split(" ")[0] for note in run.notes] == ["config.json", "log.jsonl", "predictions.npz"]
    assert run.class_name(3) == "class 3"


def test_class_names_from_the_split_where_there_is_no_adapter(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "a", images=20)
    (directory / "adapter_config.json").unlink()
    (directory / "split.json").write_text(json.dumps({"class_names": ["x", "y"]}))
    run = read_run(directory)
    assert (run.class_name(1), run.class_name(2)) == ("y", "class 2")


def test_a_cut_log_is_noted(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "a", images=20, epochs=2)
    with (directory / "log.jsonl").open("a") as file:
        file.write('{"event": "ep')
    assert read_run(directory).notes == ("The last line of log.jsonl is incomplete and was left out.",)


def test_no_result(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no result\.json: .* finish it with: vitune train --resume"):
        read_run(tmp_path)


@pytest.mark.parametrize("found", [2, None, "1"])
def test_another_format(tmp_path: Path, found: object) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"format": found}))
    with pytest.raises(RunError, match=rf"has format {found!r}, but this version of vitune reads format 1"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "zero"}, "'seed' should be a whole number or null"),
        (
            {"metrics": {"val": {"accuracy": 91.3}}},
            r"'metrics\.val\.accuracy' should be a share between 0 and 1",
        ),
        ({"metrics": {"val": 0.9}}, r"'metrics\.val' should be an object"),
        ({"costs": {"adapter_bytes": "1 MB"}}, r"'costs\.adapter_bytes' should be a whole number"),
        (
            {"full_finetuning": {"flops_per_image": "x"}},
            r"'full_finetuning\.flops_per_image' should be a number",
        ),
        ({"memory_forecast_bytes": {"weights": []}}, r"'memory_forecast_bytes\.weights' should be a whole"),
        ({"edits": [{"edit": "ssf"}]}, r"'edits\[0\]\.role' is missing"),
        (
            {"edits": [{"role": "norm", "edit": "ssf", "parameters": "many"}]},
            r"'edits\[0\]\.parameters' should",
        ),
        ({"methods": [{"settings": {}}]}, r"'methods\[0\]\.name' is missing"),
        ({"data": {"classes": "ten"}}, r"'data\.classes' should be a whole number"),
    ],
)
def test_wrong_types_name_file_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    directory = make_run(tmp_path / "a", images=20, epochs=2, changes=changes)
    with pytest.raises(RunError, match=message) as caught:
        read_run(directory)
    assert "result.json" in str(caught.value)

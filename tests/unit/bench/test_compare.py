"""Comparisons on real images of a few pixels, with the built-in backbone."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.small_images import write_classes, write_splits, write_vtab

from vitune.bench.compare import CompareResult, compare, make_plan
from vitune.bench.compare_files import CSV_FILE, JSON_FILE, MARKDOWN_FILE, REPORT_FILE, write_comparison
from vitune.bench.compare_request import CompareRequest
from vitune.errors import ConfigError, DataError, RunError, VituneError
from vitune.tasks.request import DataSettings

TRAINING = {
    "epochs": 1,
    "batch_size": 4,
    "augment": "none",
    "device": "cpu",
    "precision": "fp32",
    "warmup_epochs": 0,
}
BROKEN = "vpt(prompts=100000000000)"  # more than any memory holds
CLOCKS = {"train_seconds", "step_seconds", "inference_seconds"}
SOURCE = Path(__file__).parents[3] / "src"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data") / "small", train=3, val=2, test=2)


def request(data: Path, out: Path, **changes: object) -> CompareRequest:
    settings: dict = {"methods": ("linear", "bitfit"), "seeds": 2, "search": "none", "training": TRAINING}
    return CompareRequest(data=DataSettings(path=data), out=out, workers=0, **{**settings, **changes})


@pytest.fixture(scope="module")
def result(images: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    """A search over rates of which the last diverges for one method, and a method that cannot work."""
    rates = {"linear": (1e-2, 3e-2), "bitfit": (5e-3, 1e38), BROKEN: (1e-3, 2e-3)}
    wanted = request(
        images,
        tmp_path_factory.mktemp("out") / "all",
        methods=tuple(rates),
        rates=rates,
        seeds=1,
        command="vitune compare",
    )
    found = compare(make_plan(wanted))
    write_comparison(found)
    return found


def rows(out: Path, without: set[str] = CLOCKS) -> list[dict[str, str]]:
    with (out / CSV_FILE).open() as file:
        return [
            {key: value for key, value in row.items() if key not in without} for row in csv.DictReader(file)
        ]


def test_every_method_has_the_same_trials_and_the_test_split_opens_at_the_end(result: CompareResult):
    assert result.plan.trials == 3 * 2 + 3 * 1
    for case in result.cases:
        assert len(case.selection) == 2
        for outcome in case.selection:
            assert outcome.result is None or outcome.result["metrics"]["test"] is None
    linear, bitfit, _ = result.cases
    for outcome in (*linear.final, *bitfit.final):
        assert outcome.result is not None
        assert outcome.result["metrics"]["test"]["n"] == 6
        split = json.loads((outcome.path.parent / "work/run/split.json").read_text())
        assert split["test_openings"] == ["final"]
        assert len(bytes.fromhex(outcome.result["test_correct"])) == 1
        assert outcome.result["train_seconds"] > 0
    assert bitfit.chosen["lr"] == 5e-3


def test_failures_are_kept_and_shown(result: CompareResult):
    failed = result.methods[2]
    assert (failed.accuracy, failed.best, failed.result.final) == (None, False, ())
    out = result.plan.request.out
    method = json.loads((out / JSON_FILE).read_text())["methods"][2]
    assert [bool(candidate["error"]) for candidate in method["candidates"]] == [True, True]
    assert all((out / candidate["file"]).is_file() for candidate in method["candidates"])
    assert f"{BROKEN}: every candidate failed." in (out / MARKDOWN_FILE).read_text()
    page = (out / REPORT_FILE).read_text()
    assert f"{BROKEN}, choosing, learning rate 0.001" in page
    assert rows(out)[2]["failed"] == "2"


def test_files_say_the_same(result: CompareResult):
    out = result.plan.request.out
    table = rows(out, set())
    for row, summary in zip(table, result.methods, strict=True):
        assert row["method"] == summary.result.case.methods
        if summary.accuracy is not None:
            assert float(row["accuracy_mean"]) == summary.accuracy.mean
            assert float(row["peak_bytes"]) > float(row["saved_activation_bytes"])
    found = json.loads((out / JSON_FILE).read_text())
    assert (found["baseline"], found["command"]) == ("linear", "vitune compare")
    assert found["data"]["sizes"] == {"train": 9, "val": 6, "test": 6}


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareResult:
    """A comparison that nothing disturbed."""
    found = compare(make_plan(request(images, tmp_path_factory.mktemp("whole") / "out")))
    write_comparison(found)
    return found


@pytest.fixture
def expected(whole: CompareResult) -> list[dict[str, str]]:
    return rows(whole.plan.request.out)


def test_again_nothing_runs_and_a_method_more_runs_alone(images: Path, tmp_path: Path, whole: CompareResult):
    shutil.copytree(whole.plan.request.out, tmp_path / "out")
    began: list[str] = []
    more = request(images, tmp_path / "out", methods=("linear", "bitfit", "ssf"))
    found = compare(make_plan(more), on_event=lambda trial, event: began.append(trial.methods))
    assert set(began) == {"ssf"}
    assert [method.accuracy for method in found.methods[:2]] == [method.accuracy for method in whole.methods]


def test_default_search_is_around_each_default_rate(images: Path, tmp_path: Path):
    plan = make_plan(request(images, tmp_path / "out", search="small", methods=("full", "lora,bitfit")))
    assert [[entry["lr"] for entry in case.grid] for case in plan.cases] == [
        [3.33e-5, 1e-4, 3e-4],
        [3.33e-4, 1e-3, 3e-3],
    ]
    assert plan.trials == 2 * 3 + 2 * 2
    assert not (tmp_path / "out").exists(), "planning writes nothing"


def test_other_images_are_other_trials(images: Path, tmp_path: Path):
    other = write_splits(tmp_path / "small", train=4, val=2, test=2)
    names = {make_plan(request(data, tmp_path / "out")).cases[0].data for data in (images, other)}
    assert len(names) == 2
    assert all(name.startswith("small-") for name in names)


def test_vtab_lists_are_trained_on_whole_in_the_end(tmp_path: Path):
    plan = make_plan(request(write_vtab(tmp_path / "v"), tmp_path / "out"))
    protocol = plan.protocol
    assert (protocol.select_split, protocol.final_split, protocol.refit) == ("train", "train800val200", True)
    assert protocol.settings["select"] == "last"


def test_optuna_gets_as_many_trials_for_every_method_and_leaves_alone_what_was_given(
    images: Path, tmp_path: Path
):
    pytest.importorskip("optuna")
    training = {**TRAINING, "weight_decay": 0.01}
    methods = ("linear", "lora(rank=8)", "lora(alpha=4)")
    plan = make_plan(request(images, tmp_path / "out", search="optuna:5", methods=methods, training=training))
    assert plan.trials == 3 * 5 + 3 * 2
    spaces = [set(case.search.space()) for case in plan.cases]  # type: ignore[union-attr]
    assert [case.methods for case in plan.cases] == ["linear", "lora", "lora(alpha=4.0)"]
    assert spaces == [{"lr"}, {"lr"}, {"lr", "lora.rank"}], "rank=8 was asked for, though it is the default"
    assert request(images, tmp_path, search="optuna").search == "optuna:12"
    assert not (tmp_path / "out").exists()


def test_without_optuna_the_extra_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"a search by Optuna needs the package 'optuna'.+vitune\[optuna\]"):
        make_plan(request(images, tmp_path / "out", search="optuna"))


def test_every_trial_is_a_row_and_every_method_has_its_curves(result: CompareResult):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = result.plan.request.out
    table = parquet.read_table(out / "results.parquet").to_pylist()
    trials = [o for case in result.cases for o in (*case.selection, *case.final)]
    assert [row["trial"] for row in table] == [outcome.trial.id for outcome in trials]
    assert [row["status"] == "failed" for row in table] == [o.error is not None for o in trials]
    chosen = [row for row in table if row["chosen"]]
    assert [(row["method"], row["stage"]) for row in chosen] == [
        (method, stage) for method in ("linear", "bitfit") for stage in ("select", "final")
    ]
    linear = json.loads((out / JSON_FILE).read_text())["methods"][0]
    assert linear["chosen"] == {"lr": result.cases[0].chosen["lr"]}
    for entry in (*linear["candidates"], *linear["seeds"]):
        assert [epoch["epoch"] for epoch in entry["epochs"]] == [1]
        assert entry["epochs"][0]["train_loss"] > 0
    page = (out / REPORT_FILE).read_text()
    assert page.count('<details class="run" id="method-') == 3


def test_shots_and_data_settings_are_part_of_the_trials(images: Path, tmp_path: Path):
    data = DataSettings(path=images, shots=2, shot_seed=1)
    plan = make_plan(
        CompareRequest(data=data, out=tmp_path, methods=("linear", "ssf"), training={"batch_size": 2})
    )
    assert (plan.protocol.settings["shots"], plan.protocol.settings["shot_seed"]) == (2, 1)
    assert plan.data["sizes"]["train"] == 6


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"methods": ("linear",)}, ConfigError, "needs two methods or more, got 1"),
        ({"methods": ("lora", " lora() ")}, ConfigError, "the method 'lora' is given twice"),
        ({"methods": ("linear", "lorra")}, VituneError, "lorra"),
        ({"baseline": "ssf"}, ConfigError, "the baseline 'ssf' is not among the methods"),
        ({"search": "smal"}, ConfigError, "no search 'smal'. Did you mean 'small'"),
        ({"seeds": 0}, ConfigError, "number of seeds is 0"),
        ({"training": {"lr": 1.0}}, ConfigError, "lr cannot be set here"),
        ({"training": {"epoch": 1}}, ConfigError, "no training setting 'epoch'"),
        ({"training": {"batch_size": 64}}, ConfigError, "batch_size 64 is larger than the 9 training images"),
    ],
)
def test_wrong_requests(images: Path, tmp_path: Path, changes: dict, error: type[Exception], sentence: str):
    with pytest.raises(error, match=sentence):
        make_plan(request(images, tmp_path, **changes))


def test_data_without_the_splits_it_needs(tmp_path: Path):
    with pytest.raises(
        DataError, match="has no test split, and a comparison needs one; its splits are train, val"
    ):
        make_plan(request(write_classes(tmp_path / "flat", 8), tmp_path / "out"))
    split = write_splits(tmp_path / "split", train=4, test=2)
    plain = DataSettings(path=split, val_fraction=0)
    with pytest.raises(DataError, match="has no validation split to choose settings on"):
        make_plan(CompareRequest(data=plain, out=tmp_path, methods=("linear", "ssf"), training=TRAINING))


def test_a_folder_with_something_else_is_left_alone(images: Path, tmp_path: Path):
    (tmp_path / "holiday.txt").write_text("notes")
    with pytest.raises(RunError, match="holds something else than a comparison; choose another with --out"):
        compare(make_plan(request(images, tmp_path)))
    with pytest.raises(RunError, match="is a file; choose another folder"):
        compare(make_plan(request(images, tmp_path / "holiday.txt")))


def test_when_everything_fails_the_reason_is_told(images: Path, tmp_path: Path):
    rates = {"linear": (1e38,), "bitfit": (1e38,)}
    with pytest.raises(RunError, match=r"every method failed; the first said: .+ give --retry-failed"):
        compare(make_plan(request(images, tmp_path, rates=rates, seeds=1)))


def start(images: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [
        "compare",
        images,
        "--methods",
        "linear,bitfit",
        "--search",
        "none",
        "--seeds",
        "2",
    ]
    words += [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--out",
        out,
    ]
    words += ["--set", "augment=none", "--set", "warmup_epochs=0"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vitune", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_two_processes_over_one_folder_share_the_trials(
    images: Path, tmp_path: Path, expected: list[dict[str, str]]
):
    both = [start(images, tmp_path) for _ in range(2)]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert rows(tmp_path) == expected
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert [result["attempts"] for result in results].count(1) >= 3
    assert len(results) == 4
    logs = [
        path.read_text().count('"event": "start"') for path in tmp_path.glob("trials/*/work/run/log.jsonl")
    ]
    assert logs == [1] * 4, "every trial was trained once"


@pytest.mark.parametrize(
    "pattern", ["trials/*/work/run/config.json", pytest.param("trials/*/result.json", marks=pytest.mark.slow)]
)
def test_killed_and_started_again_it_gives_the_same_table(
    images: Path, tmp_path: Path, expected: list[dict[str, str]], pattern: str
):
    process = start(images, tmp_path)
    for _ in range(8000):
        if list(tmp_path.glob(pattern)):
            break
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / CSV_FILE).exists()
    write_comparison(compare(make_plan(request(images, tmp_path))))
    assert rows(tmp_path) == expected

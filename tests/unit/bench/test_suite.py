"""Suites on real images of a few pixels, with the built-in backbone."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.small_images import write_classes, write_splits, write_vtab

from vitune.bench.claim import try_claim
from vitune.bench.compare import compare
from vitune.bench.suite import SUITE_FILE, SuiteResult, check_suite, plan_suite, run_suite
from vitune.bench.suite_files import CSV_FILE, MARKDOWN_FILE, REPORT_FILE, write_suite
from vitune.bench.suite_request import SuiteRequest
from vitune.bench.trials import StillRunning
from vitune.errors import ConfigError, DataError, RunError
from vitune.suites import load_suite

SUITE = """
title = "Three colours"
headline = "groups"
seeds = 1
search = "none"

[train]
epochs = 1
batch_size = 4
augment = "none"
warmup_epochs = 0
device = "cpu"

[[tasks]]
name = "folders"
folder = "folders"
group = "first"
check = { classes = 3 }

[[tasks.evaluations]]
name = "shifted"
folder = "shifted"
group = "second"

[[tasks]]
name = "lists"
folder = "lists"
layout = "vtab"
group = "second"
"""
BROKEN = "vpt(prompts=100000000000)"  # more than any memory holds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("root"))


def write_root(folder: Path) -> Path:
    """The data of the suite, and its file."""
    write_splits(folder / "folders", train=3, val=2, test=2)
    write_classes(folder / "shifted", 2)
    write_vtab(folder / "lists")
    (folder / "mine.toml").write_text(SUITE)
    return folder


def request(root: Path, out: Path, **changes: Any) -> SuiteRequest:
    settings: dict[str, Any] = {
        "methods": ("linear", "bitfit"),
        "workers": 0,
        "command": "vitune bench",
        **changes,
    }
    return SuiteRequest(suite=load_suite(str(root / "mine.toml")), root=root, out=out, **settings)


@pytest.fixture(scope="module")
def result(root: Path, tmp_path_factory: pytest.TempPathFactory) -> SuiteResult:
    out = tmp_path_factory.mktemp("out") / "suite"
    found = run_suite(plan_suite(request(root, out, methods=("linear", "bitfit", BROKEN))))
    write_suite(found)
    return found


def test_every_task_is_a_comparison_and_the_same_runs_meet_the_further_sets(result: SuiteResult):
    assert [task.task.name for task in result.tasks] == ["folders", "lists"]
    assert [row.row.name for row in result.summary.rows] == ["folders", "shifted", "lists"]
    (evaluated,) = result.tasks[0].evaluated
    assert len(evaluated.outcomes) == 2, "what failed in training is not tested"
    for outcome, final in zip(evaluated.outcomes, result.tasks[0].comparison.cases, strict=False):
        assert outcome.result is not None
        assert outcome.trial.settings["trained_as"] == final.final[0].trial.id
        assert outcome.result["metrics"]["test"]["n"] == 6
        assert len(bytes.fromhex(outcome.result["test_correct"])) == 1


def test_files_hold_every_task_and_mean(result: SuiteResult):
    out = result.plan.request.out
    values = json.loads((out / SUITE_FILE).read_text())
    assert values["headline"] == "mean of groups"
    assert [mean["name"] for mean in values["means"]] == [
        "mean over tasks",
        "mean of groups",
        "first",
        "second",
    ]
    assert set(values["comparisons"]) == {"folders", "lists"}
    assert [failure["task"] for failure in values["failures"]] == ["folders", "lists"]
    assert all((out / failure["file"]).is_file() for failure in values["failures"])
    with (out / CSV_FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (3 + 4) * 3
    by_name = {(row["name"], row["method"]): row for row in rows}
    accuracies = [float(by_name[name, "linear"]["accuracy_mean"]) for name in ("folders", "shifted", "lists")]
    assert float(by_name["mean over tasks", "linear"]["accuracy_mean"]) == pytest.approx(sum(accuracies) / 3)
    groups = (accuracies[0] + (accuracies[1] + accuracies[2]) / 2) / 2
    assert float(by_name["mean of groups", "linear"]["accuracy_mean"]) == pytest.approx(groups)
    assert by_name["mean over tasks", BROKEN]["accuracy_mean"] == ""
    text = (out / MARKDOWN_FILE).read_text()
    assert "| [folders](folders/report.html) | " in text
    assert "## Failed trials" in text
    page = (out / REPORT_FILE).read_text()
    assert 'href="lists/report.html"' in page
    assert (out / "lists/report.html").is_file()


def test_the_same_command_reads_what_is_finished(root: Path, result: SuiteResult):
    events: list[object] = []
    told: list[str] = []
    again = run_suite(
        plan_suite(result.plan.request),
        on_event=lambda trial, event: events.append(event),
        on_outcome=lambda task, outcome: told.append(outcome.trial.id),
    )
    assert not events
    assert len(told) == len(set(told)) == 2 * 3 + 2, "and no test of what failed in training"
    assert again.plan.trials == 2 * 3 + 3
    assert again.summary == result.summary


def test_a_process_goes_on_to_the_next_task_where_others_are_at_work(result: SuiteResult, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(result.plan.request.out, out)
    plan = plan_suite(replace(result.plan.request, out=out))
    first = plan.tasks[0].plan
    trial = first.protocol.trial(first.cases[0], first.cases[0].grid[0], "final", 0)
    shutil.rmtree(out / "folders/trials" / trial.id)
    attempts = out / "folders/trials" / trial.id / "attempts"
    other = try_claim(attempts, stale_seconds=600, heartbeat_seconds=60, retry=set())
    assert other is not None
    with pytest.raises(StillRunning):
        compare(first, wait=False)
    order: list[str] = []
    run_suite(
        plan,
        on_task=lambda task: (order.append(task.task.name), other.release() if len(order) == 1 else None),
        poll_seconds=0.05,
    )
    assert order == ["lists", "folders"]


def start(root: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["bench", root / "mine.toml", root, "--methods", "linear,bitfit", "--workers", "0", "--out", out]
    source = Path(__file__).parents[3] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "vitune", *map(str, words)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)


def rows(out: Path) -> list[dict[str, str]]:
    """The table, less the clock."""
    with (out / CSV_FILE).open() as file:
        return [{k: text for k, text in row.items() if k != "train_seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The table of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "suite"
    write_suite(run_suite(plan_suite(request(root, out))))
    return rows(out)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "moment",
    [
        "folders/trials/*/work/run/config.json",
        "folders/evaluations/*/trial.json",
        "lists/trials/*/trial.json",
    ],
)
def test_killed_and_then_shared_by_two_processes_it_gives_the_same_table(
    root: Path, whole: list[dict[str, str]], tmp_path: Path, moment: str
):
    out = tmp_path / "out"
    process = start(root, out)
    for _ in range(20000):
        if list(out.glob(moment)):
            break
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / CSV_FILE).exists()
    both = [start(root, out) for _ in range(2)]
    assert [process.wait(timeout=400) for process in both] == [0, 0]
    assert rows(out) == whole
    assert len(list(out.glob("*/trials/*/result.json"))) == 4
    assert len(list(out.glob("*/evaluations/*/result.json"))) == 2


def test_what_is_missing_stops_before_anything_is_written(root: Path, tmp_path: Path):
    empty = replace(request(root, tmp_path / "out"), root=tmp_path)
    assert [bool(located.problems) for located in check_suite(empty)] == [True, True, True]
    with pytest.raises(
        DataError, match=r"the data of 3 of 3 are not complete \(folders, shifted, lists\); the first:"
    ):
        plan_suite(empty)
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        DataError, match=r"there is no folder '.*none'; give the one that holds the suite's data"
    ):
        plan_suite(replace(empty, root=tmp_path / "none"))


def test_a_folder_of_something_else_is_refused(root: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match="holds something else than results of the suite 'mine'; choose another"
    ):
        plan_suite(request(root, tmp_path))
    with pytest.raises(RunError, match="is a file; choose another folder with --out"):
        plan_suite(request(root, tmp_path / "notes.txt"))


def test_a_mistake_of_one_task_names_it(root: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"^task 'folders': batch_size 64 is larger than the 9 training images"
    ):
        plan_suite(request(root, tmp_path / "out", training={"batch_size": 64}))


def test_a_suite_in_which_everything_fails(root: Path, tmp_path: Path):
    broken = request(root, tmp_path / "out", methods=(BROKEN, BROKEN.replace("0)", "1)")), tasks=("lists",))
    with pytest.raises(
        RunError, match=r"every method failed on every task; the first said: .*--retry-failed"
    ):
        run_suite(plan_suite(broken))

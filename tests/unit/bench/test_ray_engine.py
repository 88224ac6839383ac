"""The engine 'ray': the same trials and the same table as here. The cluster is slow to start, so it is for `slow`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.small_images import write_splits

from vitune import __version__
from vitune.bench.compare import compare, make_plan
from vitune.bench.compare_files import CSV_FILE, write_comparison
from vitune.bench.compare_request import CompareRequest
from vitune.bench.evaluate_trial import EvaluateTrial
from vitune.bench.ray_engine import _check_nodes
from vitune.bench.ray_worker import KINDS, answer
from vitune.bench.suite import plan_suite, run_suite
from vitune.bench.suite_files import write_suite
from vitune.bench.train_trial import TrainTrial
from vitune.bench.trial import Trial
from vitune.errors import ConfigError, RunError
from vitune.suites import EvaluationSet
from vitune.tasks.request import DataSettings

from .test_compare import BROKEN, TRAINING, rows
from .test_suite import request as suite_request
from .test_suite import rows as suite_rows
from .test_suite import write_root as write_suite_root

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else a busy machine starves the cluster
}


def request(data: Path, out: Path, **changes: object) -> CompareRequest:
    settings: dict = {"methods": ("linear", "bitfit", BROKEN), "search": "none", "seeds": 2}
    return CompareRequest(
        data=DataSettings(path=data), out=out, training=TRAINING, workers=0, **{**settings, **changes}
    )


def test_an_unknown_engine(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no engine 'rai'\. Did you mean 'ray'"):
        request(tmp_path, tmp_path, engine="rai")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"the engine 'ray' needs the package 'ray'.+vitune\[ray\]"):
        make_plan(request(tmp_path, tmp_path / "out", engine="ray"))
    assert not (tmp_path / "out").exists()


class RayError(Exception):
    """As Ray's own, for a cluster that is none."""


def cluster(told: Callable[[list[str]], dict]) -> SimpleNamespace:
    """A stand-in for Ray whose nodes give an answer to the paths that they are asked for."""

    def affinity(node: str, soft: bool) -> str:
        assert not soft
        return node

    def get(order: dict, timeout: float) -> dict:
        return told(order["look"])

    task = SimpleNamespace(remote=lambda order: order)
    task.options = lambda scheduling_strategy: task
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=affinity)
    return SimpleNamespace(
        remote=lambda **options: lambda function: task,
        get=get,
        exceptions=SimpleNamespace(RayError=RayError),
        util=SimpleNamespace(scheduling_strategies=strategies),
    )


def silent(paths: list[str]) -> dict:
    raise RayError("Traceback\nGet timed out")


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (
            lambda paths: {"missing": paths[:1], "version": __version__},
            "10.0.0.7 does not see '{root}'; put it on a folder that all",
        ),
        (
            lambda paths: {"missing": paths[1:], "version": __version__},
            "10.0.0.7 does not see '/data'; put it on a folder that all",
        ),
        (lambda paths: {"missing": [], "version": "0.0.1"}, "10.0.0.7 has vitune 0.0.1 and this machine has"),
        (
            lambda paths: {"failed": "No module named vitune"},
            "10.0.0.7 cannot run vitune .No module named vitune.; ins",
        ),
        (silent, "10.0.0.7 does not answer .Get timed out.; look at 'ray status'"),
    ],
)
def test_nodes_that_cannot_take_part(tmp_path: Path, told: Callable, sentence: str):
    node = {"NodeID": "1", "NodeManagerAddress": "10.0.0.7"}
    with pytest.raises(RunError, match=sentence.format(root=tmp_path)):
        _check_nodes(cluster(told), [node], tmp_path, [Path("/data")])
    assert list(tmp_path.iterdir()) == [], "no token is left behind"
    with pytest.raises(ConfigError, match="has no node with processors"):
        _check_nodes(cluster(told), [], tmp_path, [])


@pytest.mark.slow
def test_no_cluster_is_one_sentence(tmp_path: Path):
    pytest.importorskip("ray")
    data = write_splits(tmp_path / "small", train=3, val=2, test=2)
    words = [data, "--methods", "linear,bitfit", "--engine", "ray", "--batch-size", 4]
    command = [sys.executable, "-m", "vitune", "compare", *map(str, words), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith(
        "found no running Ray cluster; start one with 'ray start --head', or set RAY_ADDRESS."
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_same_table(tmp_path: Path):
    pytest.importorskip("ray")
    data = write_splits(tmp_path / "small", train=3, val=2, test=2)
    script = Path(__file__).with_name("ray_cluster.py")
    command = [sys.executable, str(script), str(data), "out"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]
    assert sorted(name for kind, name in told if kind == "submitted") == sorted(
        name for kind, name in told if kind == "ended"
    )
    assert len(told) == 2 * 6
    here = compare(make_plan(request(data, tmp_path / "here")))
    write_comparison(here)
    assert rows(tmp_path / "out") == rows(tmp_path / "here")
    assert {path.name for path in (tmp_path / "out/trials").iterdir()} == {
        path.name for path in (tmp_path / "here/trials").iterdir()
    }
    assert (tmp_path / "out" / CSV_FILE).is_file()
    # The other engine finds every trial and runs none.
    began: list[str] = []
    compare(make_plan(request(data, tmp_path / "out")), on_event=lambda trial, event: began.append(trial.id))
    assert began == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_suite_on_a_cluster_gives_the_same_table(tmp_path: Path):
    pytest.importorskip("ray")
    root = write_suite_root(tmp_path / "root")
    script = Path(__file__).with_name("ray_cluster.py")
    command = [sys.executable, str(script), str(root), "out", "suite"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]
    assert sorted(name for kind, name in told if kind == "submitted") == sorted(
        name for kind, name in told if kind == "ended"
    )
    assert len(told) == 2 * (4 + 2), "two tasks and the further set, which the cluster tests too"
    here = run_suite(plan_suite(suite_request(root, tmp_path / "here")))
    write_suite(here)
    assert suite_rows(tmp_path / "out") == suite_rows(tmp_path / "here")
    began: list[str] = []
    local = plan_suite(suite_request(root, tmp_path / "out"))
    run_suite(local, on_event=lambda trial, event: began.append(trial.id))
    assert began == [], "the other engine finds every trial"


def test_a_suite_asks_for_the_cluster_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_suite_root(tmp_path / "root")
    with pytest.raises(ConfigError, match=r"there is no engine 'rai'\. Did you mean 'ray'"):
        suite_request(root, tmp_path / "out", engine="rai")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"the engine 'ray' needs the package 'ray'.+vitune\[ray\]"):
        plan_suite(suite_request(root, tmp_path / "out", engine="ray"))
    assert not (tmp_path / "out").exists()


def test_tests_on_further_sets_can_be_told_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    tests = EvaluateTrial(Path("trials"), {"shifted": Path("data")}, weights=Path("w.pth"), workers=2)
    portable = tests.portable()
    assert portable.needed_paths() == [tmp_path / "trials", tmp_path / "data", tmp_path / "w.pth"]
    order = json.loads(json.dumps(portable.as_order()))
    assert KINDS[order["kind"]].from_order(order).as_order() == order
    trained = Trial(data="a", model="m", methods="ssf", protocol="p", stage="final")
    test = EvaluateTrial.trial(EvaluationSet(name="other", folder=("other",)), trained)
    with pytest.raises(ConfigError, match="no further set is called 'other'; known: shifted"):
        tests.run(test, tmp_path, tests.open_data(test))


def test_a_runner_takes_what_another_process_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trials = TrainTrial({"a": Path("data")}, weights=Path("w.pth"), on_event=lambda trial, event: None)
    assert trials.portable().needed_paths() == [tmp_path / "data", tmp_path / "w.pth"]
    assert trials.needed_paths() == [Path("data"), Path("w.pth")]


def test_a_worker_answers_orders(tmp_path: Path):
    (tmp_path / "there").touch()
    places = [str(tmp_path / "there"), str(tmp_path / "gone")]
    assert answer({"look": places}) == {"missing": places[1:], "version": __version__}
    taken = Trial(data="a", model="m", methods="ssf", protocol="p", stage="select")
    result = tmp_path / "trials" / taken.id / "result.json"
    result.parent.mkdir(parents=True)
    order = {
        "kind": "train",
        "paths": {},
        "weights": None,
        "workers": 0,
        "root": str(tmp_path / "trials"),
        "retry": [],
    }
    result.write_text(json.dumps({"trial": taken.as_dict()}))
    assert answer({**order, "trial": taken.as_dict()}) == {"worked": False}, "it has a result"
    result.write_text("{}")
    assert "is not the result of this trial" in answer({**order, "trial": taken.as_dict()})["refused"]

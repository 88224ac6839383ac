import json
from pathlib import Path
from typing import Any

import pytest

from vitune.bench import TrialRunner
from vitune.bench.claim import Claim, try_claim
from vitune.errors import ConfigError, RunError

from .fakes import open_fake, run_fake, trial


def test_a_trial_runs_once_and_its_result_is_one_file(runner: TrialRunner):
    one = trial(stage="final", seed=2)
    outcome = runner.finish([one, one])[0]
    assert outcome.path == runner.root / one.id / "result.json"
    assert outcome.error is None
    result = json.loads(outcome.path.read_text())
    assert result == outcome.result
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(0.62)
    assert result["costs"] == {"trained_parameters": 1234, "step_seconds": None}
    assert (result["format"], result["protocol"], result["attempts"]) == (1, "small", 1)
    assert result["trial"] == one.as_dict()
    assert result["seconds"] >= 0
    assert result["versions"]["python"]
    assert result["machine"] == {"cpu": "none"}
    before = outcome.path.stat().st_mtime_ns
    assert runner.finish([one]) == [outcome]
    assert outcome.path.stat().st_mtime_ns == before


def test_outcomes_come_in_the_order_asked_for(runner: TrialRunner):
    trials = [trial(lr=lr) for lr in (3, 1, 2)]
    assert [outcome.trial for outcome in runner.finish(trials)] == trials


def test_a_failure_is_kept_and_retried_only_when_asked(runner: TrialRunner):
    bad = trial(diverges=True)
    outcome = runner.finish([bad])[0]
    assert outcome.result is None
    assert outcome.error is not None
    assert outcome.error["type"] == "FloatingPointError"
    assert outcome.error["message"] == "the loss is not finite at lr 1"
    assert "run_fake" in outcome.error["traceback"]
    assert runner.finish([bad]) == [outcome]
    again = runner.finish([bad], retry_failed=True)[0]
    assert again.path.parent.name == "1"
    assert outcome.path.exists()  # the first error stays on record


def test_a_retry_that_succeeds_is_the_result(runner: TrialRunner):
    calls: list[int] = []

    def flaky(one: Any, folder: Path, data: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("disk away")
        return run_fake(one, folder, data)

    runner._run = flaky
    assert runner.finish([trial()])[0].error is not None
    outcome = runner.finish([trial()], retry_failed=True)[0]
    assert outcome.result is not None
    assert outcome.result["attempts"] == 2
    assert len(calls) == 2


def test_an_interrupted_trial_stays_open_and_continues_from_its_folder(runner: TrialRunner):
    def interrupted(one: Any, folder: Path, data: Any) -> dict[str, Any]:
        if not (folder / "half").exists():
            (folder / "half").touch()
            raise KeyboardInterrupt
        return run_fake(one, folder, data)

    runner._run = interrupted
    with pytest.raises(KeyboardInterrupt):
        runner.finish([trial()])
    assert runner.outcome(trial()) is None
    outcome = runner.finish([trial()])[0]
    assert outcome.result is not None
    assert outcome.result["attempts"] == 2


def test_selection_trials_cannot_open_the_test_split(runner: TrialRunner):
    def peeks(one: Any, folder: Path, data: Any) -> dict[str, Any]:
        return {"metrics": {"val": {"accuracy": len(data.open_test("evaluate"))}}}

    runner._run = peeks
    error = runner.finish([trial()])[0].error
    assert error is not None
    assert "The test split is sealed while settings are chosen" in error["message"]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"metrics": {"val": {}, "test": {"accuracy": 1}}},
            "A trial that selects settings has returned test metrics",
        ),
        ({"accuracy": 1}, "must return a mapping with 'metrics'"),
        ([1], "must return a mapping with 'metrics'"),
        (
            {"metrics": {}, "seconds": 1},
            r"returned the keys ['seconds'], which the trial runner writes itself",
        ),
        ({"metrics": {"val": {"loss": float("nan")}}}, "Out of range float values are not JSON compliant"),
    ],
)
def test_wrong_answers_are_failures(runner: TrialRunner, told: Any, message: str):
    runner._run = lambda one, folder, data: told
    error = runner.finish([trial()])[0].error
    assert error is not None
    assert message in error["message"]


def test_a_process_that_lost_its_trial_writes_no_result(runner: TrialRunner):
    def overtaken(one: Any, folder: Path, data: Any) -> dict[str, Any]:
        if not (folder.parent / "attempts" / "1").exists():
            # What another process does that thinks this one dead; then it lets go.
            (folder.parent / "attempts" / "1").mkdir()
            (folder.parent / "attempts" / "1" / "released").touch()
            return {"metrics": {"val": {"accuracy": 0.1}}}
        return run_fake(one, folder, data)

    runner._run = overtaken
    result = runner.finish([trial(lr=3)])[0].result
    assert result is not None
    assert (result["metrics"]["val"]["accuracy"], result["attempts"]) == (0.9, 3)


def test_a_result_that_comes_between_look_and_claim_is_kept(
    runner: TrialRunner, monkeypatch: pytest.MonkeyPatch
):
    quicker = TrialRunner(runner.root, run_fake, open_fake)

    def late_claim(*arguments: Any, **settings: Any) -> Claim | None:
        monkeypatch.undo()
        monkeypatch.setattr("vitune.bench.trials.machine", lambda: {"cpu": "none"})
        quicker.finish([trial()])
        return try_claim(*arguments, **settings)

    monkeypatch.setattr("vitune.bench.trials.try_claim", late_claim)
    runner._run = lambda one, folder, data: pytest.fail("the trial was finished already")
    result = runner.finish([trial()])[0].result
    assert result is not None
    assert result["attempts"] == 1


def test_results_that_cannot_be_used(runner: TrialRunner):
    path = runner.finish([trial()])[0].path
    other = {**json.loads(path.read_text()), "trial": trial(lr=9).as_dict()}
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        (json.dumps(other), "is not the result of this trial"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=message):
            runner.finish([trial()])
    path.unlink()
    assert runner.finish([trial()])[0].result is not None


def test_silence_must_outlast_the_heartbeat(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"0\.5 minutes of silence are too few .* every 20\.0 seconds"):
        TrialRunner(tmp_path, run_fake, open_fake, stale_minutes=0.5)


def test_every_outcome_is_told_once_whether_new_or_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vitune.bench.trials.machine", lambda: {"cpu": "none"})
    told: list[tuple[float, bool]] = []
    runner = TrialRunner(
        tmp_path,
        run_fake,
        open_fake,
        on_outcome=lambda o: told.append((o.trial.settings["lr"], o.error is None)),
    )
    runner.finish([trial(lr=1)])
    runner.finish([trial(lr=1), trial(lr=2, diverges=True), trial(lr=3)])
    assert told == [(1, True), (1, True), (2, False), (3, True)]

"""A search by Optuna on the trial runner: same trials whatever happens, test split sealed."""

import subprocess
import sys
from pathlib import Path

import pytest

from vitune.bench import Case, SelectThenTest, TrialRunner, run_protocol
from vitune.bench.optuna_search import JOURNAL_FILE, OptunaSearch, write_journal
from vitune.bench.search import Candidate, Tried
from vitune.bench.selection import ValidationResult
from vitune.methods import all_methods

from .fakes import open_fake, trial

optuna = pytest.importorskip("optuna")
PROTOCOL = SelectThenTest(name="search", settings={"epochs": 1, "weight_decay": 1e-4}, seeds=(0, 1))
TRIALS = 10


def run_smooth(trial, folder, data):
    """Best at a learning rate of 0.004 and the largest rank; a rate above 0.009 diverges."""
    (folder / "ran").write_text((folder / "ran").read_text() + "x" if (folder / "ran").exists() else "x")
    rate = trial.settings["lr"]
    if rate > 9e-3:
        raise FloatingPointError("the loss is not finite")
    score = 0.8 - abs(rate - 4e-3) * 20 + (0.1 if "rank=16" in trial.methods else 0)
    if trial.stage == "select":
        return {"metrics": {"val": {"accuracy": score, "loss": 1.0}, "test": None}}
    assert data.open_test("final") == ["test-1"]
    return {"metrics": {"val": None, "test": {"accuracy": score}}}


def cases(trials: int = TRIALS) -> list[Case]:
    return [
        Case(
            data="digits", model="tiny", methods=name, grid=({"lr": 1e-3},), search=OptunaSearch(name, trials)
        )
        for name in ("lora", "bitfit")
    ]


@pytest.fixture
def smooth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialRunner:
    monkeypatch.setattr("vitune.bench.trials.machine", lambda: {"cpu": "none"})
    return TrialRunner(tmp_path / "trials", run_smooth, open_fake, poll_seconds=0.01)


def ran(runner: TrialRunner) -> dict[str, str]:
    return {path.parents[1].name: path.read_text() for path in runner.root.glob("*/work/ran")}


def test_every_method_gets_as_many_trials_and_the_best_is_tested(smooth: TrialRunner):
    lora, bitfit = run_protocol(smooth, PROTOCOL, cases())
    for found in (lora, bitfit):
        assert len({outcome.trial.id for outcome in found.selection}) == TRIALS
        assert {outcome.trial.stage for outcome in found.selection} == {"select"}
        finished = [o for o in found.selection if o.result is not None]
        best = max(finished, key=lambda o: o.result["metrics"]["val"]["accuracy"])
        assert [o.trial.methods for o in found.final] == [best.trial.methods] * 2
        assert found.chosen == best.trial.settings
        assert found.methods == best.trial.methods
    first = lora.selection[0].trial
    assert (first.methods, first.settings["lr"], first.settings["weight_decay"]) == ("lora", 1e-3, 1e-4)
    assert lora.methods == "lora(rank=16)", "rank was searched, and the largest is best"
    assert len({outcome.trial.methods for outcome in bitfit.selection}) == 1
    assert len({outcome.trial.settings["weight_decay"] for outcome in bitfit.selection}) > 5


def test_again_nothing_runs_and_the_result_is_the_same(smooth: TrialRunner):
    first = run_protocol(smooth, PROTOCOL, cases())
    assert run_protocol(smooth, PROTOCOL, cases()) == first
    assert set(ran(smooth).values()) == {"x"}, "every trial ran once"


@pytest.mark.parametrize("ended", [1, 5, 13])
def test_stopped_anywhere_it_proposes_the_same(tmp_path: Path, smooth: TrialRunner, ended: int):
    whole = run_protocol(smooth, PROTOCOL, cases())
    left = [ended]

    def dying(trial, folder, data):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run_smooth(trial, folder, data)

    halted = TrialRunner(tmp_path / "halted", dying, open_fake, poll_seconds=0.01)
    with pytest.raises(KeyboardInterrupt):
        run_protocol(halted, PROTOCOL, cases())
    again = TrialRunner(tmp_path / "halted", run_smooth, open_fake, poll_seconds=0.01)
    found = run_protocol(again, PROTOCOL, cases())
    assert [o.trial for case in found for o in (*case.selection, *case.final)] == [
        o.trial for case in whole for o in (*case.selection, *case.final)
    ]
    assert set(ran(again).values()) == {"x"}


def test_more_trials_go_on_from_those_that_are_there(smooth: TrialRunner):
    few = run_protocol(smooth, PROTOCOL, cases(4))
    before = set(ran(smooth))
    more = run_protocol(smooth, PROTOCOL, cases(8))
    assert [o.trial for o in more[0].selection[:4]] == [o.trial for o in few[0].selection]
    assert before < set(ran(smooth))


def test_the_journal_holds_every_trial(tmp_path: Path, smooth: TrialRunner):
    path = tmp_path / JOURNAL_FILE
    rounds = []

    def on_round(tried):
        rounds.append([len(past) for _, past in tried])
        write_journal(path, tried)

    found = run_protocol(smooth, PROTOCOL, cases(), on_round=on_round)
    assert rounds == [[4, 4], [8, 8], [10, 10]]
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.load_study(study_name="lora", storage=optuna.storages.JournalStorage(backend))
    names = [each.user_attrs["trial"] for each in study.trials]
    assert names == [outcome.trial.id for outcome in found[0].selection]
    states = [each.state.name for each in study.trials]
    assert [state == "FAIL" for state in states] == [o.result is None for o in found[0].selection]
    assert study.best_trial.user_attrs["methods"] == found[0].methods
    assert {entry.name for entry in tmp_path.iterdir()} == {JOURNAL_FILE, "trials"}


def test_what_the_user_has_set_is_not_searched():
    free = OptunaSearch("lora(rank=3),bitfit", 4)
    assert free.space() == {
        "lr": (1e-4, 1e-2),
        "weight_decay": (1e-6, 1e-1),
        "lora.rank": (2, 4, 8, 16, 3),
    }
    assert free.first_point() == {"lr": 1e-3, "weight_decay": 1e-4, "lora.rank": 3}
    held = OptunaSearch("lora(rank=3),bitfit", 4, frozenset({"lora.rank", "weight_decay"}))
    assert list(held.space()) == ["lr"]
    for candidate in held.propose(()):
        assert candidate.methods == "lora(rank=3),bitfit"
        assert list(candidate.settings) == ["lr"]


def test_values_that_the_other_settings_rule_out_are_not_tried():
    assert OptunaSearch("suffix(k=1,deepest=2)", 4).space()["suffix.k"] == (None, 1, 2)


def test_what_it_proposes_follows_from_what_was_tried(tmp_path: Path):
    search = OptunaSearch("lora", 8)
    first = search.propose(())
    assert first == search.propose(())

    def tried(score: float) -> list[Tried]:
        values = [score, 0.2, 0.3, 0.4]
        return [
            Tried(candidate, "t", ValidationResult(trial(1), {"accuracy": value}, tmp_path))
            for candidate, value in zip(first, values, strict=True)
        ]

    assert search.propose(tried(0.1)) == search.propose(tried(0.1))
    assert search.propose(tried(0.1)) != search.propose(tried(0.9))
    assert search.propose([*tried(0.1), *tried(0.1)]) == ()
    assert all(isinstance(candidate, Candidate) for candidate in first)


def test_every_declared_space_holds_settings_that_the_method_takes():
    declared = {method.name: method.search_space for method in all_methods().values() if method.search_space}
    assert {"lora", "vpt", "adaptformer"} <= declared.keys()
    for method in all_methods().values():
        for setting, choices in method.search_space.items():
            assert len(set(choices)) > 1
            assert getattr(method(), setting) in choices, f"{method.name}: the default is among them"
            for choice in choices:
                assert getattr(method(**{setting: choice}), setting) == choice


def test_optuna_is_imported_when_it_is_needed_only():
    program = "import vitune.bench.compare, sys; assert 'optuna' not in sys.modules; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)

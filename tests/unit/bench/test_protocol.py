import pytest

from vitune.bench import Case, SelectThenTest, TrialRunner, run_protocol
from vitune.errors import ConfigError, RunError

GRID = tuple({"lr": lr} for lr in (1, 3, 10))
PROTOCOL = SelectThenTest(name="small", settings={"epochs": 10})


def case(methods: str = "ssf", grid=GRID) -> Case:
    return Case(data="digits", model="tiny", methods=methods, grid=grid)


def test_choice_on_validation_then_every_seed_on_train_and_val(runner: TrialRunner):
    found = run_protocol(runner, PROTOCOL, [case(), case("bitfit", grid=({"lr": 10},))])
    ssf, bitfit = found
    assert [outcome.trial.stage for outcome in ssf.selection] == ["select"] * 3
    assert {outcome.trial.train_split for outcome in ssf.selection} == {"train"}
    assert {outcome.trial.seed for outcome in ssf.selection} == {0}
    assert ssf.chosen == {"epochs": 10, "lr": 3}
    assert [outcome.trial.seed for outcome in ssf.final] == [0, 1, 2]
    assert {outcome.trial.train_split for outcome in ssf.final} == {"train800val200"}
    assert all(outcome.result and outcome.result["metrics"]["test"] for outcome in ssf.final)
    assert all(outcome.result and outcome.result["metrics"]["test"] is None for outcome in ssf.selection)
    assert (bitfit.selection, bitfit.chosen) == ((), {"epochs": 10, "lr": 10})
    assert len(list(runner.root.iterdir())) == 3 + 3 + 3
    assert run_protocol(runner, PROTOCOL, [case(), case("bitfit", grid=({"lr": 10},))]) == found


def test_a_candidate_that_fails_is_out_of_the_choice(runner: TrialRunner):
    found = run_protocol(runner, PROTOCOL, [case(grid=({"lr": 3, "diverges": True}, {"lr": 1}))])[0]
    assert found.chosen == {"epochs": 10, "lr": 1}
    assert [outcome.result is None for outcome in found.selection] == [True, False]


def test_all_candidates_fail(runner: TrialRunner):
    bad = case(grid=({"lr": 3, "diverges": True}, {"lr": 1, "diverges": True}))
    with pytest.raises(
        RunError, match="All 2 candidates of ssf on digits failed; the first: the loss is not finite"
    ):
        run_protocol(runner, PROTOCOL, [bad])


def test_failed_final_trials_are_told(runner: TrialRunner):
    found = run_protocol(runner, PROTOCOL, [case(grid=({"lr": 3, "diverges": True},))])[0]
    assert [outcome.error is not None for outcome in found.final] == [True] * 3


def test_wrong_protocols():
    with pytest.raises(ConfigError, match="the grid is empty"):
        case(grid=())
    with pytest.raises(ConfigError, match="one or more different seeds"):
        SelectThenTest(name="x", seeds=(1, 1))
    with pytest.raises(ConfigError, match="both stages train on 'train'; the first needs a validation split"):
        SelectThenTest(name="x", final_split="train")


def test_without_refitting_both_stages_may_train_on_the_same_images(runner: TrialRunner):
    protocol = SelectThenTest(name="x", final_split="train", refit=False)
    found = run_protocol(runner, protocol, [case()])[0]
    assert {o.trial.train_split for o in (*found.selection, *found.final)} == {"train"}


def test_a_case_without_a_working_candidate_can_be_kept(runner: TrialRunner):
    bad = case("bitfit", grid=({"lr": 3, "diverges": True}, {"lr": 1, "diverges": True}))
    failed, fine = run_protocol(runner, PROTOCOL, [bad, case()], keep_failed=True)
    assert (failed.chosen, failed.final, len(failed.selection)) == ({}, (), 2)
    assert len(fine.final) == 3

from __future__ import annotations

import json

from vitune.training.selection import Selection


def test_accuracy_counts_first_then_loss_then_the_earlier_epoch() -> None:
    selection = Selection()
    assert selection.update(1, 0.5, 1.0)
    assert not selection.update(2, 0.4, 0.1)
    assert selection.update(3, 0.5, 0.9)
    assert not selection.update(4, 0.5, 0.9)
    assert selection.update(5, 0.6, 2.0)
    assert (selection.epoch, selection.accuracy, selection.loss) == (5, 0.6, 2.0)


def test_patience_runs_out_after_so_many_evaluations_without_improvement() -> None:
    selection = Selection(patience=2)
    selection.update(1, 0.5, 1.0)
    selection.update(2, 0.5, 1.0)
    assert not selection.should_stop
    selection.update(3, 0.5, 1.0)
    assert selection.should_stop
    selection.update(4, 0.9, 1.0)
    assert not selection.should_stop


def test_a_loss_that_is_not_finite_still_counts_as_an_evaluation() -> None:
    selection = Selection()
    assert selection.update(1, 0.5, float("nan"))


def test_survives_json_before_and_after_the_first_evaluation() -> None:
    for selection in (Selection(patience=3), Selection(None, 2, 0.5, 0.1, 1)):
        stored = json.loads(json.dumps(selection.state_dict(), allow_nan=False))
        assert Selection.from_state(stored) == selection

import statistics

import pytest

from vitune.errors import ConfigError
from vitune.methods import parse
from vitune.suites import load_published, load_suite, suite_names
from vitune.suites.published import _row


def test_every_row_says_how_it_was_measured_and_what_stands_behind_it():
    rows = [row for name in suite_names() for row in load_published(name)]
    assert len(rows) == 51
    for row in rows:
        assert row.protocol
        assert row.source
        assert row.backbone
        assert row.tasks or row.groups or row.mean_of_tasks or row.mean_of_groups
        if row.method:
            parse(row.method)


def test_suites_without_known_numbers_have_none():
    assert load_published("local") == ()


@pytest.mark.parametrize("suite", ["vtab1k", "fgvc"])
def test_full_rows_name_the_tasks_of_the_suite_and_bear_out_their_means(suite: str):
    tasks = load_suite(suite).tasks
    full = [row for row in load_published(suite) if len(row.tasks) == len(tasks)]
    assert len(full) >= 12
    for row in full:
        assert list(row.tasks) == [task.name for task in tasks]
        assert row.mean_of_tasks == pytest.approx(statistics.fmean(row.tasks.values()), abs=0.11), row.label
        means = {
            group: statistics.fmean(row.tasks[task.name] for task in tasks if task.group == group)
            for group in row.groups
        }
        for group, mean in means.items():
            assert row.groups[group] == pytest.approx(mean, abs=0.06), row.label
        if row.mean_of_groups is not None:
            # Published means are of unrounded accuracies.
            assert row.mean_of_groups == pytest.approx(statistics.fmean(means.values()), abs=0.06), row.label


def test_the_two_means_of_vtab_differ():
    linear = next(row for row in load_published("vtab1k") if row.label == "Linear")
    assert (linear.mean_of_groups, linear.mean_of_tasks) == (57.64, 52.94)


def test_malformed_rows_are_refused():
    with pytest.raises(ConfigError, match="the row 'X' has 1 values for 2 tasks; correct it"):
        _row({"label": "X", "row": [1.0], "level": "paper"}, ["a", "b"], "s")
    with pytest.raises(ConfigError, match=r"the level of 'X' is 'papers'\. Did you mean 'paper'\?"):
        _row({"label": "X", "level": "papers"}, [], "s")

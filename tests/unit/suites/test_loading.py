from pathlib import Path

import pytest

from vitune.data.layouts import LAYOUTS
from vitune.errors import ConfigError, NothingMatchedError
from vitune.suites import load_suite, suite_names

TASK = '[[tasks]]\nname = "one"\nfolder = "one"\n'


def own(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_the_suites_of_the_package():
    counts = {name: len(load_suite(name).tasks) for name in suite_names()}
    assert counts == {
        "cifar100": 1,
        "domainbed": 22,
        "few_shot": 75,
        "fgvc": 5,
        "imagenet_shift": 1,
        "local": 8,
        "pacs": 4,
        "vtab1k": 19,
    }
    for name in counts:
        for task in load_suite(name).tasks:
            assert task.layout in LAYOUTS
            assert task.get, "where it comes from"
            assert all(of.layout in LAYOUTS for of in task.evaluations)


def test_vtab1k_has_its_groups_and_named_normalisations():
    suite = load_suite("vtab1k")
    groups = [task.group for task in suite.tasks]
    assert [groups.count(name) for name in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert suite.headline == "groups"
    normalise = {protocol.name: protocol.data["normalise"] for protocol in suite.protocols}
    assert normalise == {"noah": "imagenet", "unnormalised": "none", "inception": "inception"}
    assert suite.protocol().name == "noah"


def test_imagenet_is_trained_on_once_and_tested_under_every_shift():
    (task,) = load_suite("imagenet_shift").tasks
    assert [of.layout.removeprefix("imagenet-") for of in task.evaluations] == ["a", "r", "v2", "sketch", "c"]


def test_each_makes_a_task_of_every_combination(tmp_path: Path):
    text = """
    title = "Mine"
    [[tasks]]
    name = "d-{shots}-{shot_seed}"
    folder = ["d", "other"]
    group = "{shots} shots"
    data = { val_fraction = 0.1 }
    each = { shots = [1, 2], shot_seed = [0, 1] }
    """
    suite = load_suite(own(tmp_path, text))
    assert [task.name for task in suite.tasks] == ["d-1-0", "d-1-1", "d-2-0", "d-2-1"]
    last = suite.tasks[-1]
    assert (last.group, last.folder) == ("2 shots", ("d", "other"))
    assert last.data == {"val_fraction": 0.1, "shots": 2, "shot_seed": 1}
    assert (suite.name, suite.protocol().name) == ("mine", "mine")


def test_the_example_of_the_docs(tmp_path: Path):
    text = (Path(__file__).parents[3] / "docs/bench.md").read_text()
    suite = load_suite(own(tmp_path, text.partition("```toml\n")[2].partition("```")[0]))
    assert [task.name for task in suite.tasks] == ["day", "night-4", "night-16"]
    assert [of.name for task in suite.tasks for of in task.evaluations] == ["rain-4", "rain-16"]


def test_none_of_toml_is_the_null_of_a_setting(tmp_path: Path):
    text = 'title = "Mine"\n[train]\ncheckpoint_minutes = "none"\naugment = "none"\n' + TASK
    assert load_suite(own(tmp_path, text)).train == {"checkpoint_minutes": None, "augment": "none"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title = 'x'\n", "has no [[tasks]]; give one or more."),
        (TASK, "the suite 'mine' lacks 'title'; add it."),
        ("title = 'x'\ntitel = 1\n" + TASK, "has the unknown key 'titel'. Did you mean 'title'?"),
        ("title = 'x'\nheadline = 'task'\n" + TASK, "headline is 'task'. Did you mean 'tasks'?"),
        (
            "title = 'x'\n[train]\nepoch = 1\n" + TASK,
            "There is no training setting 'epoch'. Did you mean 'epochs'?",
        ),
        ("title = 'x'\n[data]\nshot = 1\n" + TASK, "there is no data setting 'shot'. Did you mean 'shots'?"),
        ("title = 'x'\n" + TASK + TASK, "has two tasks of the name 'one'; give each its own."),
        ("title = 'x'\n[[tasks]]\nname = '../x'\nfolder = 'x'\n", "'../x' is no name of a task"),
        ("title = 'x'\n[[tasks]]\nname = 'x'\n", "task 'x' lacks 'folder'; add it."),
        ("title = 'x'\n[rates]\nssf = [1]\nlora = [1, 2]\n" + TASK, "the same number of learning rates"),
        ("title = ", "cannot be read: "),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, sentence: str):
    with pytest.raises(ConfigError) as caught:
        load_suite(own(tmp_path, text))
    assert sentence in str(caught.value)
    assert "mine" in str(caught.value)


def test_unknown_names(tmp_path: Path):
    with pytest.raises(NothingMatchedError, match=r"there is no suite 'vtab'\. Did you mean 'vtab1k'\?"):
        load_suite("vtab")
    with pytest.raises(NothingMatchedError, match=r"there is no suite file '.*none.toml'; check the path\."):
        load_suite(str(tmp_path / "none.toml"))
    with pytest.raises(NothingMatchedError, match=r"has no protocol 'noa'\. Did you mean 'noah'\?"):
        load_suite("vtab1k").protocol("noa")

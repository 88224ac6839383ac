from __future__ import annotations

import pytest

from vitune.errors import ConfigError, NothingMatchedError
from vitune.methods import parse
from vitune.recipes import load_recipe, recipe_names
from vitune.tasks.request import DataSettings
from vitune.training import TrainConfig

NAMES = ["adaptformer", "bitfit", "full", "linear", "lora", "ssf"]


def test_names() -> None:
    assert recipe_names() == [f"vtab1k/{name}" for name in NAMES]


def test_all_load_and_are_settings_that_training_takes() -> None:
    loaded = [load_recipe(name) for name in recipe_names()]
    assert len(loaded) == 6
    for recipe in loaded:
        (method,) = parse(recipe.method)
        assert recipe.name == f"vtab1k/{method.name}"
        config = TrainConfig.from_dict(recipe.train_settings(dict.fromkeys(recipe.choose, 0.001)))
        assert config.epochs == 100
        assert config.select == "last"
        assert DataSettings(path=None, **recipe.data).train_split == "train800val200"  # pyright: ignore[reportArgumentType]
        for text in (recipe.title, recipe.source, recipe.evidence, recipe.differs, recipe.backbone):
            assert len(text) > 10


def test_ssf_has_the_19_tasks_of_its_table() -> None:
    tasks = load_recipe("vtab1k/ssf").tasks
    assert len(tasks) == 19
    rates = {task: load_recipe(f"vtab1k/ssf/{task}").train for task in tasks}
    assert all(set(rate) >= {"lr", "weight_decay", "drop_path"} for rate in rates.values())
    assert rates["clevr_dist"]["lr"] == 5e-2
    assert rates["smallnorb_ele"]["weight_decay"] == 5e-2
    assert [task for task in tasks if rates[task]["drop_path"] == 0.2] == [
        "eurosat",
        "retinopathy",
        "dsprites_ori",
        "smallnorb_ele",
    ]
    for rate in rates.values():
        TrainConfig.from_dict(rate)


def test_adapters_share_one_schedule() -> None:
    assert load_recipe("vtab1k/lora").train == load_recipe("vtab1k/adaptformer").train


def test_what_the_user_gives_wins() -> None:
    assert load_recipe("vtab1k/ssf").train_settings({"lr": 1.0})["lr"] == 1.0


def test_unknown_names() -> None:
    with pytest.raises(NothingMatchedError, match=r"no recipe 'vtab1k/lroa'\. Did you mean 'vtab1k/lora'\?"):
        load_recipe("vtab1k/lroa")
    with pytest.raises(NothingMatchedError, match=r"'vtab1k/ssf' has no task 'dtdd'\. Did you mean 'dtd'\?"):
        load_recipe("vtab1k/ssf/dtdd")
    with pytest.raises(NothingMatchedError, match=r"'vtab1k/lora' has no task 'dtd'\. None is known\."):
        load_recipe("vtab1k/lora/dtd")


@pytest.mark.parametrize("name", ["linear", "full", "bitfit"])
def test_a_grid_must_be_chosen_from(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"the recipe 'vtab1k/{name}' needs --lr: its source uses"):
        load_recipe(f"vtab1k/{name}").train_settings({})

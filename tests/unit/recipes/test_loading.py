from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from vitune.errors import ConfigError, NothingMatchedError
from vitune.methods import VeLoRA, parse
from vitune.methods.velora import compress_linears
from vitune.recipes import Recipe, load_recipe, recipe_names
from vitune.recipes.loading import _with  # pyright: ignore[reportPrivateUsage]
from vitune.tasks.request import DataSettings
from vitune.training import TrainConfig
from vitune.training.schedule import LearningRate

TASKS = [
    "cifar100",
    "caltech101",
    "dtd",
    "flowers102",
    "pets",
    "svhn",
    "sun397",
    "camelyon",
    "eurosat",
    "resisc45",
    "retinopathy",
    "clevr_count",
    "clevr_dist",
    "dmlab",
    "kitti",
    "dsprites_loc",
    "dsprites_ori",
    "smallnorb_azi",
    "smallnorb_ele",
]
COUNTS = {"cifar100": 2, "few_shot": 2, "fgvc": 8, "imagenet1k": 1, "images": 3, "text": 4, "vtab1k": 26}


def train_config(recipe: Recipe) -> TrainConfig:
    chosen = {name: 0.5 for name in recipe.choose if name != "shots"}
    return TrainConfig.from_dict({**recipe.train, **chosen})


def rows(name: str) -> dict[str, Recipe]:
    return {task: load_recipe(f"{name}/{task}") for task in load_recipe(name).tasks}


def settings(recipe: Recipe) -> dict[str, Any]:
    return parse(recipe.method)[0].settings()


def rates(recipe: Recipe, per_epoch: int = 15) -> list[float]:
    """Learning rate of the first step of each epoch, as a stage would have it."""
    config = train_config(recipe)
    assert config.lr is not None
    schedule = LearningRate(
        peak=config.lr,
        minimum=config.min_lr,
        steps=(config.epochs - config.cooldown_epochs) * per_epoch,
        warmup_steps=round(config.warmup_epochs * per_epoch),
        kind=config.schedule,
        warmup_from=config.warmup_lr,
        cosine_from=config.cosine_from,
        every=1 if config.lr_every == "step" else per_epoch,
        late=config.lr_every == "late epoch",
    )
    return [schedule.at(epoch * per_epoch) for epoch in range(config.epochs)]


def test_counts() -> None:
    folders = [name.split("/")[0] for name in recipe_names()]
    assert {folder: folders.count(folder) for folder in folders} == COUNTS
    assert sum(1 + len(load_recipe(name).tasks) for name in recipe_names()) == 333


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.startswith("text/")])
def test_all_load_and_are_settings_that_training_takes(name: str) -> None:
    recipe = load_recipe(name)
    for one in [recipe, *rows(name).values()]:
        assert parse(one.method)
        config = train_config(one)
        assert config.epochs >= 20
        data = DataSettings(path=None, **one.data)  # pyright: ignore[reportArgumentType]
        data.looks()
        assert (data.train_split == "train800val200") == name.startswith("vtab1k/")
        assert (data.val_fraction == 0.0 or config.select == "best") != name.startswith("vtab1k/")
    for text in (recipe.title, recipe.source, recipe.evidence, recipe.backbone):
        assert len(text) > 10
        assert "  " not in text


RATES = {
    "text/velora_alpaca": 4e-4,
    "text/velora_c4_60m": 0.01,
    "text/velora_c4_130m": 0.003,
    "text/velora_glue": 1e-5,
}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("text/")])
def test_recipes_for_text_are_settings_that_transformers_takes(name: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    recipe = load_recipe(name)
    assert recipe.reads == "text"
    assert all(method.reads_text for method in parse(recipe.method))
    arguments = transformers.TrainingArguments(str(tmp_path), **recipe.trainer)
    assert arguments.learning_rate == RATES[name]
    config = transformers.LlamaConfig(**recipe.model)
    assert all(getattr(config, key) == value for key, value in recipe.model.items())
    with pytest.raises(
        ConfigError, match=f"the recipe '{name}' trains a model of text, and the command line"
    ):
        recipe.require({})


def test_the_names_in_the_recipe_for_glue_are_those_of_roberta() -> None:
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(
        hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    model = transformers.RobertaForSequenceClassification(config)
    names = re.findall(r"'([^']+)'", load_recipe("text/velora_glue").differs)
    compressed = compress_linears(model, names, VeLoRA(sub_token_size=16))
    parts = {name.rpartition("layer.")[2] for name in compressed}
    assert parts == {f"{i}.{name}" for i in range(12) for name in ("attention.self.value", "output.dense")}


def test_a_name_says_its_method() -> None:
    others = {"images/alast": "full", "fgvc/hst_mae": "hst"}
    for name in recipe_names():
        method = (
            parse(load_recipe(name).method)[-1].name
            if "velora" in name
            else parse(load_recipe(name).method)[0].name
        )
        assert others.get(name, name.split("/")[1]).startswith(method)


def test_tables_of_vtab1k_have_its_19_tasks() -> None:
    tables = [name for name in recipe_names() if name.startswith("vtab1k/") and load_recipe(name).tasks]
    assert len(tables) == 14
    assert all(list(load_recipe(name).tasks) == TASKS for name in tables)


def test_ssf_per_task() -> None:
    found = rows("vtab1k/ssf")
    assert {task for task, one in found.items() if one.train.get("drop_path") == 0.2} == {
        "eurosat",
        "retinopathy",
        "dsprites_ori",
        "smallnorb_ele",
    }
    assert (found["clevr_dist"].train["lr"], found["smallnorb_ele"].train["weight_decay"]) == (5e-2, 5e-2)


def test_hst_per_task_has_the_drop_path_in_backbone_and_side_network() -> None:
    found = rows("vtab1k/hst")
    assert {one.train["lr"] for one in found.values()} == {1e-3, 5e-3, 1e-2}
    for one in found.values():
        assert settings(one)["drop_path"] == one.train.get("drop_path", 0.0)
    assert settings(found["smallnorb_ele"])["drop_path"] == 0.2
    assert "drop_path" not in found["dtd"].train
    assert load_recipe("fgvc/hst_mae/nabirds").train["lr"] == 1e-3
    assert load_recipe("fgvc/hst/nabirds").train["lr"] == 5e-4


def test_sct_per_task() -> None:
    found = rows("vtab1k/sct")
    assert sum(one.train["augment"] == "rand" for one in found.values()) == 11
    assert sum(settings(one)["scale_on"] == "input" for one in found.values()) == 6
    assert sum(one.train.get("label_smoothing") == 0.1 for one in found.values()) == 12
    pets = found["pets"]
    assert (pets.train["lr"], pets.train["weight_decay"], settings(pets)["scale"]) == (7e-4, 0.8, 0.2)


@pytest.mark.parametrize("name", ["bi_adaptformer", "bi_lora"])
def test_low_bit_methods_have_a_scale_for_each_task(name: str) -> None:
    scales = {task: settings(one)["scale"] for task, one in rows(f"vtab1k/{name}").items()}
    assert set(scales.values()) == {0.01, 0.1, 1.0, 10.0}
    assert (scales["cifar100"], scales["caltech101"]) == (0.1, 10)
    assert scales["smallnorb_azi"] == (10 if name == "bi_lora" else 1)
    small = settings(load_recipe(f"vtab1k/{name}_bihead_h1/svhn"))
    assert (small["scale"], small["binary_head"]) == (100, True)
    assert small["rank" if name == "bi_lora" else "bottleneck"] == 1


def test_vpt_knows_the_rate_of_four_tasks() -> None:
    found = rows("vtab1k/vpt_deep")
    assert {task for task, one in found.items() if not one.choose} == {"svhn", "sun397", "eurosat", "dmlab"}
    assert [settings(found[task])["prompts"] for task in ("sun397", "clevr_dist", "smallnorb_ele")] == [
        5,
        200,
        200,
    ]
    assert {settings(one)["prompts"] for one in found.values() if one.train["batch_size"] == 64} == {100, 200}
    assert all(settings(one)["mode"] == "shallow" for one in rows("vtab1k/vpt_shallow").values())


def test_e2vpt_per_task() -> None:
    found = {task: settings(one) for task, one in rows("vtab1k/e2vpt").items()}
    assert (found["caltech101"]["prompts"], found["camelyon"]["kv_prompts"]) == (32, 10)


def test_a_backbone_may_have_values_of_its_own() -> None:
    vit, swin = load_recipe("cifar100/ssf"), load_recipe("cifar100/ssf/swin")
    assert vit.train["ema"] == 0.99992
    assert "ema" not in swin.train
    assert swin.backbone.startswith("swin_base")


def test_rates_of_petl_vit_lag_an_epoch() -> None:
    found = rates(load_recipe("vtab1k/lora"))
    assert found[:2] == [1e-6, 1e-6]
    assert found[10] == pytest.approx(9.001e-4)
    assert found[11] == max(found) == pytest.approx(9.758e-4, rel=1e-3)
    assert found[99] == pytest.approx(1.098e-5, rel=1e-3)


def test_rates_of_ssf_cool_down_for_ten_epochs() -> None:
    found = rates(load_recipe("vtab1k/ssf"))
    assert len(found) == 110
    assert found[0] == 1e-7
    assert found[1] == pytest.approx(1e-7 + (5e-3 - 1e-7) / 10)
    assert found[10] == pytest.approx(1e-8 + (5e-3 - 1e-8) / 2 * (1 + math.cos(math.pi / 10)))
    assert found[100:] == [1e-8] * 10


def test_rates_of_vpt_start_at_zero() -> None:
    found = rates(load_recipe("vtab1k/vpt_deep/dmlab"))
    assert (found[0], found[5], found[10]) == (0.0, 0.125, 0.25)
    assert found[99] == pytest.approx(0.25 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_adapters_share_one_schedule() -> None:
    for name in ("adaptformer", "bi_adaptformer", "bi_lora_h1", "adapter"):
        assert load_recipe("vtab1k/lora").train == load_recipe(f"vtab1k/{name}").train


def test_unknown_names() -> None:
    with pytest.raises(NothingMatchedError, match=r"no recipe 'vtab1k/lroa'\. Did you mean 'vtab1k/lora'\?"):
        load_recipe("vtab1k/lroa")
    with pytest.raises(NothingMatchedError, match=r"'vtab1k/ssf' has no task 'dtdd'\. Did you mean 'dtd'\?"):
        load_recipe("vtab1k/ssf/dtdd")
    with pytest.raises(NothingMatchedError, match=r"'vtab1k/lora' has no task 'dtd'\. None is known\."):
        load_recipe("vtab1k/lora/dtd")
    with pytest.raises(NothingMatchedError, match=r"no recipe '_protocols'"):
        load_recipe("_protocols")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vtab1k/bitfit", "needs --lr: its source uses a value between"),
        ("vtab1k/full", "needs --lr: its source uses one of 5e-3"),
        ("few_shot/lora", "needs --shots: its source uses 1, 2, 4"),
        ("fgvc/ssf", "needs --lr: "),
    ],
)
def test_what_the_source_does_not_fix_must_be_chosen(name: str, message: str) -> None:
    recipe = load_recipe(name)
    with pytest.raises(ConfigError, match=f"the recipe '{name}' {message}"):
        recipe.require({})
    recipe.require(dict.fromkeys(recipe.choose, 1))


def test_a_setting_without_an_option_is_asked_for_with_set() -> None:
    with pytest.raises(ConfigError, match=r"needs --set weight_decay=VALUE: its source uses one of 0\.01"):
        load_recipe("vtab1k/linear").require({"lr": 1.0})


def test_a_level_is_one_of_three() -> None:
    texts = dict.fromkeys(("title", "method", "backbone", "source", "evidence", "differs"), "")
    with pytest.raises(ConfigError, match=r"recipe 'x': level is 'relaesed'\. Did you mean 'released'\?"):
        Recipe(name="x", level="relaesed", **texts)  # pyright: ignore[reportArgumentType]


def test_settings_of_a_task_go_over_those_of_the_method() -> None:
    assert _with("ssf", {}) == "ssf"
    assert _with("hst", {"drop_path": 0.1}) == "hst(drop_path=0.1)"
    assert _with("vpt(prompts=10,mode=shallow)", {"prompts": 5}) == "vpt(mode=shallow,prompts=5)"
    with pytest.raises(ConfigError, match="no setting 'promts'"):
        _with("vpt", {"promts": 5})

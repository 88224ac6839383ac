"""evaluate, predict, merge, list and show on a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import FinishedRun, Run


def test_evaluate(run: Run, finished: FinishedRun, images: Path) -> None:
    outcome = run("evaluate", finished.directory, images, "--workers", 0)
    assert outcome.code == 0, outcome.err
    as_json = run("evaluate", finished.directory, images, "--workers", 0, "--json", "--split", "val")
    values = json.loads(as_json.out)
    result = json.loads((finished.directory / "result.json").read_text())
    assert values["split"] == "val"
    assert values["accuracy"] == result["metrics"]["val"]["accuracy"]
    assert values["low"] == result["metrics"]["val"]["low"]
    assert outcome.out.startswith("test accuracy ")
    assert "95 % interval, 9 images" in outcome.out


def test_evaluate_names_what_it_left_out(
    run: Run, finished: FinishedRun, images: Path, tmp_path: Path
) -> None:
    import shutil

    data = Path(shutil.copytree(images, tmp_path / "data"))
    (data / "test" / "ant" / "broken.jpg").write_text("text")
    outcome = run("evaluate", finished.directory, data, "--workers", 0, "--on-bad-image", "skip")
    assert outcome.code == 0, outcome.err
    assert "left out, since it cannot be read: test/ant/broken.jpg" in outcome.out


def test_evaluate_shows_the_most_frequent_mistakes(
    run: Run, finished: FinishedRun, images: Path, tmp_path: Path
) -> None:
    swapped = tmp_path / "data" / "test"
    swapped.mkdir(parents=True)
    (swapped / "ant").symlink_to(images / "test" / "bee")
    (swapped / "bee").symlink_to(images / "test" / "ant")
    outcome = run("evaluate", finished.directory, swapped.parent, "--workers", 0)
    assert outcome.code == 0, outcome.err
    assert "Most frequent mistakes" in outcome.out
    assert "taken for" in outcome.out


def test_predict_as_table_and_json(run: Run, finished: FinishedRun, images: Path) -> None:
    table = run(
        "predict",
        finished.directory,
        images / "test" / "bee",
        images / "test" / "ant" / "0.png",
        "--top-k",
        2,
    )
    assert table.code == 0, table.err
    assert table.out.count("0.png") == 2
    values = json.loads(run("predict", finished.directory, images / "test" / "bee", "--json").out)
    assert [Path(entry["path"]).name for entry in values] == ["0.png", "1.png", "2.png"]
    for entry in values:
        chances = [guess["probability"] for guess in entry["classes"]]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert {guess["class"] for guess in entry["classes"]} == {"ant", "bee", "cat"}


def test_merge_prints_python_that_loads_the_model(
    run: Run, finished: FinishedRun, images: Path, tmp_path: Path
) -> None:
    import torch

    import vitune

    merged = tmp_path / "merged.safetensors"
    outcome = run("merge", finished.directory, "-o", merged)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.split("load it without vitune:\n")[1].replace("  ", "")
    names: dict[str, object] = {}
    exec(lines, names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    batch = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = model.eval()(batch) - vitune.load(finished.directory)(batch)
    assert difference.abs().max() < 1e-4


def test_export_writes_a_program_and_its_description(run: Run, finished: FinishedRun, tmp_path: Path) -> None:
    program = tmp_path / "model.pt2"
    outcome = run("export", finished.directory, "--format", "torch-export", "--out", program)
    assert outcome.code == 0, outcome.err
    assert f"wrote {program} (" in outcome.out
    assert "its logits differ from the tuned model's by at most" in outcome.out
    assert f"class names and preprocessing: {tmp_path / 'model.json'}" in outcome.out
    assert json.loads((tmp_path / "model.json").read_text())["class_names"] == ["ant", "bee", "cat"]
    refused = run("export", finished.directory, "--format", "onxx", "--out", program)
    assert (refused.code, refused.err) == (2, "vitune: there is no format 'onxx'. Did you mean 'onnx'?\n")


def test_list_methods_says_what_they_cost_and_what_goes_together(run: Run) -> None:
    from vitune.methods import all_methods

    out = run("list", "methods").out
    table, _, refused = out.partition("These do not go together:")
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert set(all_methods()) <= set(rows)
    # Trained parameters, MiB kept at the levels stock and fast, learning rate, merges, paper.
    assert rows["lora"][1:7] == ["294,912", "617", "465", "0.001", "yes", "arXiv:2106.09685"]
    assert rows["full"][1:3] == ["85,798,656", "902"]
    assert rows["ssf"][1] == "205,824"
    assert rows["adaptformer"][5] == "no"
    lines = " ".join(refused.split())
    assert "e2vpt with vpt: both put prompts of their own in front of the tokens" in lines
    assert "full with any but " in lines
    assert "hst with vpt, e2vpt" in lines


def test_list_of_one_method_names_the_pairs_of_that_one_alone(run: Run) -> None:
    out = " ".join(run("list", "methods", "e2vpt").out.split())
    assert "full with e2vpt: full fine-tuning already trains every weight" in out
    assert "e2vpt with vpt: both put prompts" in out
    assert " lora " not in out


def test_list_models_has_the_built_in_one_first_and_a_filter(run: Run) -> None:
    from vitune.backbones import BUILT_IN

    names = [
        line.split()[0]
        for line in run("list", "models", "vit*_patch*_*").out.splitlines()
        if "_patch" in line
    ]
    assert names[0] == BUILT_IN
    assert "vit_base_patch8_224" in names
    out = run("list", "models", "vit_tiny").out
    assert "augreg_in21k" in out
    assert "vit_base" not in out


@pytest.mark.parametrize("file", ["vision_transformer", "deit"])
def test_listed_models_are_of_a_known_family(file: str) -> None:
    import timm
    import torch

    from vitune.anatomy import FAMILIES

    assert any(file in family.TIMM_FILES for family in FAMILIES.values())
    smallest = min(timm.list_models(module=file), key=len)
    with torch.device("meta"):
        model = timm.create_model(smallest)
    assert any(family.matches(model) for family in FAMILIES.values())


def test_list_suites(run: Run) -> None:
    from vitune.suites import load_suite, suite_names

    lines = run("list", "suites").out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.strip()}
    for name in suite_names():
        assert f" {len(load_suite(name).tasks)} " in rows[name]
    assert "noah, unnormalised, inception" in rows["vtab1k"]


def test_list_recipes_and_settings(run: Run) -> None:
    from vitune.recipes import recipe_names
    from vitune.training import TrainConfig

    out = run("list", "recipes").out
    assert all(f" {name} " in out for name in recipe_names())
    out = run("list", "settings").out
    assert all(f" {name} " in out for name in TrainConfig().to_dict())


def test_show_method_has_every_setting_with_default_and_meaning(run: Run) -> None:
    out = run("show", "lora").out
    assert "arXiv:2106.09685" in out
    for piece in ("rank", "a whole number", "Rank of each update.", "attn.q+attn.v", "'latent' or 'input'"):
        assert piece in out
    assert "--method 'lora(rank=8)'" in out
    assert "It has no settings: --method linear" in run("show", "linear").out


def test_show_recipe(run: Run) -> None:
    out = run("show", "vtab1k/ssf/caltech101").out
    for piece in ("arXiv:2210.08823", "evidence", "differs", "0.001", "smallnorb_ele"):
        assert piece in out


def test_show_model_draws_a_tree_without_weights(run: Run) -> None:
    out = run(
        "show", "--model", "vit_giant_patch14_dinov2"
    ).out  # 1.1 billion parameters, none of which is made
    assert "blocks.0 .. 39" in out
    assert "attn.qkv" in out

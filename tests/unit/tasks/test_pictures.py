"""`pictures.json`: which images are shown, and what methods show of them; drawn by the report without another file."""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitune
from vitune.data import Preprocessing, open_source
from vitune.methods import parse
from vitune.report import read_run, write_report
from vitune.tasks.classification import RunResult, train
from vitune.tasks.pictures import evenly_spaced, load_images, picture_values
from vitune.training.moments import prepare

from .conftest import small_request

KINDS = {
    "dyt(bottleneck=2)": {"kept_patches"},
    "alast(k=2,budget_range=0.3+0.6,initial_budget=0.5)": {"kept_patches"},
    "alast(k=2,initial_budget=0.5,dropped=carried)": {"kept_patches"},
    "alast(k=2,tokens=all)": set(),
    "sct(channels=4)": {"channel_scores"},
    "hst(widths=4+8+8+8,num_heads=1+1+1+1,depths=1+1+1+1,meta_tokens=2)": {"pyramid_maps"},
    "lora(rank=2)": set(),
}


def small_tuned(text: str) -> vitune.Tuned:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=3
    )
    return vitune.apply(model, parse(text))


def test_images_are_spread_over_the_split():
    assert evenly_spaced(12, 3) == [2, 6, 10]
    assert evenly_spaced(2, 6) == [0, 1]
    assert evenly_spaced(6, 6) == list(range(6))


@pytest.mark.parametrize(("text", "kinds"), KINDS.items())
def test_methods_show_what_they_did_and_leave_the_model_as_it_was(text, kinds, colours):
    tuned = small_tuned(text)
    samples = open_source(colours).split("val")
    assert samples is not None
    looks = Preprocessing.from_model(tuned.model)
    images = load_images(samples, list(range(12)), looks)
    prepare(tuned.policies, [(images, torch.tensor(samples.labels))])
    tuned.model.train()
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    policies = [policy.state_dict() for policy in tuned.policies]
    random = torch.get_rng_state()
    found = picture_values(tuned, samples, looks)
    assert {entry["kind"] for entry in (found or {"pictures": []})["pictures"]} == kinds
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in tuned.model.modules())
    for name, tensor in tuned.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for old, new in zip(policies, (policy.state_dict() for policy in tuned.policies), strict=True):
        assert repr(old) == repr(new)
    if found is None:
        return
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [image["label"] for image in found["images"]] == [0, 0, 1, 1, 2, 2]
    tuned.model.eval()
    with torch.no_grad():
        guesses = tuned(load_images(samples, evenly_spaced(12, 6), looks)).argmax(1).tolist()
    assert [image["predicted"] for image in found["images"]] == guesses


def test_alast_shows_as_many_patches_as_its_budgets_leave(colours):
    for dropped, counts in (("gone", [16, 8, 4, 2]), ("carried", [16, 8, 8, 8])):
        tuned = small_tuned(f"alast(k=2,initial_budget=0.5,dropped={dropped})")
        samples = open_source(colours).split("val")
        assert samples is not None
        found = picture_values(tuned, samples, Preprocessing.from_model(tuned.model))
        assert found is not None
        layers = found["pictures"][0]["values"]["layers"]
        assert [layer["kept"][0].count("1") for layer in layers] == counts
        if dropped == "gone":  # what is gone does not come back
            for first, second in pairwise(layers):
                for a, b in zip(first["kept"], second["kept"], strict=True):
                    assert all(x >= y for x, y in zip(a, b, strict=True))


def test_a_thumbnail_is_what_the_model_saw(colours):
    samples = open_source(colours).split("val")
    assert samples is not None
    found = picture_values(small_tuned("dyt(bottleneck=2)"), samples, Preprocessing(input_size=(3, 32, 32)))
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found["images"][0]["jpeg"]))) as picture:
        assert picture.size == (32, 32)
        red, green, blue = np.asarray(picture).reshape(-1, 3).mean(0)
    assert blue > 150 > max(red, green) + 50, "the first image is a blue one"


def test_a_run_explains_itself(skipping_run: RunResult, tmp_path: Path):
    out, result = skipping_run.directory, skipping_run.result
    skipping = result["skipping"]
    assert set(skipping["rates"]) == {f"blocks.{i}.mlp.around" for i in range(result["blocks"])}
    assert skipping["executed_flops"] < skipping["masked_flops"]
    assert skipping["images"] == 12
    run = read_run(out)
    assert run.pictures is not None
    assert run.pictures.split == "val"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = [line["dyt_rates"] for line in lines if line["event"] == "step"]
    assert len(logged) == 6
    assert all(len(rates) == result["blocks"] for rates in logged)
    page = write_report([out], tmp_path / "again.html").read_text()
    assert page == (out / "report.html").read_text()
    titles = ("Patch tokens kept in training", "What inference skips", "Which patches were kept")
    assert all(f"<figcaption>{title}</figcaption>" in page for title in titles)


def test_a_run_does_not_fail_for_its_pictures(colours: Path, tmp_path: Path, monkeypatch):
    def fail(self: object, tuned: object, images: object) -> dict:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(vitune.LoRA, "pictures", fail)
    told = []
    done = train(small_request(colours, tmp_path / "run"), on_event=told.append)
    assert done.status == "finished"
    assert not (tmp_path / "run" / "pictures.json").exists()
    messages = [event.values["message"] for event in told if event.kind == "warning"]
    assert messages == ["pictures of the report were not made: out of memory"]

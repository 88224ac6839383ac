"""What is known of accuracies: the file that ships is what the trials say, and near evidence counts more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import evidence as making

from vitune.tasks.suggest.evidence import Group, Known, evidence, published, standing
from vitune.tasks.suggest.settings import METHODS

HERE = {"train_images": 1000, "backbone": "nano", "family": "timm-vit"}


def group(name: str = "a", backbone: str = "nano", images: int = 1000, **gains: float) -> Group:
    methods = {method: Known(0.5 + gain, gain, 0.01, 3, 0.003) for method, gain in gains.items()}
    return Group(name, images, 10, backbone, "timm-vit", "p", 10, 64, "here", methods)


def test_the_shipped_file_is_what_the_trials_say() -> None:
    made = making.text(making.evidence(making.RESULTS))
    assert making.TARGET.read_text() == made, "run python -m benchmarks.evidence"


def test_the_shipped_evidence_can_be_read() -> None:
    groups = evidence()
    assert len(groups) >= 2
    for one in groups:
        assert one.methods["linear"].gain == 0
        assert one.train_images > 0
        assert all(known.seeds >= 1 for known in one.methods.values())


def trial(method: str, seed: int, accuracy: float, stage: str = "final") -> dict[str, object]:
    return {
        "trial": {
            "data": "flowers-0123456789abcdef",
            "model": "nano",
            "methods": method,
            "settings": {"batch_size": 32},
            "seed": seed,
            "protocol": "p",
            "stage": stage,
        },
        "metrics": {"test": {"accuracy": accuracy}},
        "data": {"train": 100, "classes": 5},
        "model": {"name": "nano", "family": "timm-vit"},
        "lr": 0.01,
    }


def test_gains_are_paired_by_seed_and_other_files_are_left_out(tmp_path: Path) -> None:
    values = [
        trial("linear", 0, 0.5),
        trial("linear", 1, 0.6),
        trial("lora(rank=8)", 0, 0.52),
        trial("lora(rank=8)", 1, 0.64),
        trial("ssf", 0, 0.9, stage="select"),
    ]
    for number, entry in enumerate(values):
        (tmp_path / f"{number}.json").write_text(json.dumps(entry))
    (tmp_path / "costs.json").write_text("[1, 2]")
    (found,) = making.evidence(tmp_path)["groups"]
    assert set(found["methods"]) == {"linear", "lora"}  # the default rank, and no trial of choosing
    assert found["methods"]["lora"]["gain"] == pytest.approx(0.03)
    assert found["methods"]["lora"]["half"] == pytest.approx(12.706 * 0.01, abs=1e-3)  # Student's, two seeds
    assert (found["data"], found["epochs"], found["batch_size"]) == ("flowers", 20, 32)


def test_trials_without_a_linear_probe_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(trial("lora", 0, 0.5)))
    assert making.evidence(tmp_path)["groups"] == []


def test_near_evidence_counts_more() -> None:
    near, far = group("near", lora=0.04), group("far", backbone="large", images=64000, lora=0.0)
    found = standing("lora", groups=(near, far), **HERE)  # type: ignore[arg-type]
    assert found.gain is not None
    assert 0.035 < found.gain < 0.04
    assert found.groups == ("near", "far")
    assert found.half == pytest.approx(0.02)  # half of the range between the two is more than within them
    assert (found.close, found.exact, found.lr) == (True, True, 0.003)


def test_evidence_of_another_size_or_backbone_is_not_close() -> None:
    other = standing("lora", groups=(group(backbone="large", lora=0.01),), **HERE)  # type: ignore[arg-type]
    more = standing("lora", groups=(group(images=10000, lora=0.01),), **HERE)  # type: ignore[arg-type]
    assert not other.close
    assert not more.close


def test_other_settings_of_a_method_borrow_its_gain_but_not_its_rate() -> None:
    found = standing("lora(rank=2)", groups=(group(lora=0.01),), **HERE)  # type: ignore[arg-type]
    assert (found.gain, found.exact, found.lr) == (0.01, False, None)


def test_published_numbers_stand_apart() -> None:
    found = standing("vpt", groups=(group(lora=0.01),), **HERE)  # type: ignore[arg-type]
    assert found.gain is None
    assert found.published is not None
    assert found.published.gain == pytest.approx(0.1432)
    assert "VTAB-1k" in found.published.source
    assert set(METHODS) - set(published()) == {"suffix"}  # nobody published it

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from tests.contract.cases import randomise, tune
from tests.contract.families import backbone, images
from tests.unit.adapters.saved import save_small

import vitune
from vitune.adapters import CONFIG, TENSORS, frozen_hash, num_classes, read_config
from vitune.errors import AdapterError
from vitune.methods import Policy

ROOT = Path(__file__).parents[3]


def test_two_files_named_as_other_libraries_name_them(tmp_path):
    save_small(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_configuration_is_plain_json(tmp_path):
    save_small(
        tmp_path,
        "lora(rank=4),bitfit",
        class_names=("cat", "dog", "owl"),
        preprocessing={"mean": [0.5, 0.5, 0.5]},
        extra={"note": "mine"},
    )
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["format"] == 1
    assert [entry["name"] for entry in config["methods"]] == ["lora", "bitfit"]
    assert config["methods"][0]["settings"]["rank"] == 4
    assert config["family"] == "timm-vit"
    assert config["class_names"] == ["cat", "dog", "owl"]
    assert config["num_classes"] == 3
    assert config["preprocessing"] == {"mean": [0.5, 0.5, 0.5]}
    assert config["extra"] == {"note": "mine"}
    assert config["policies"] == []
    assert config["versions"].keys() == {"vitune", "torch", "timm"}
    assert config["backbone"]["library"] == "timm"
    assert config["backbone"]["name"].startswith("vit_tiny_patch16_224")
    assert read_config(tmp_path) == config


def test_tensors_are_named_by_role_and_hold_what_trained(tmp_path):
    tuned = save_small(tmp_path, "bitfit,lora(rank=2)")
    tensors = load_file(tmp_path / TENSORS)
    assert tensors.keys() == {tuned.anatomy.role_of(name) for name in tuned.trainable()}
    assert "blocks.0.attn.qkv.vitune.lora.q.down" in tensors
    assert torch.equal(tensors["blocks.1.mlp.in.bias"], tuned.model.get_parameter("blocks.1.mlp.fc1.bias"))


def test_what_is_known_already_need_not_be_said_again(tmp_path):
    tuned = tune("linear", "plain")
    tuned.class_names, tuned.preprocessing = ("a", "b", "c"), {"crop_pct": 1.0}
    tuned.save(tmp_path)
    assert read_config(tmp_path)["class_names"] == ["a", "b", "c"]
    assert read_config(tmp_path)["preprocessing"] == {"crop_pct": 1.0}


def test_other_files_of_a_run_are_left_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}")
    save_small(tmp_path)
    save_small(tmp_path, "lora")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, TENSORS, "log.jsonl"])
    assert vitune.load(tmp_path, model=backbone("plain")).methods == (vitune.LoRA(),)


def test_the_adapter_is_small(tmp_path):
    tuned = save_small(tmp_path, "lora(rank=1)")
    assert (tmp_path / TENSORS).stat().st_size < 4 * tuned.costs().trained_parameters + 2000


def test_class_names_must_fit_the_head(tmp_path):
    with pytest.raises(AdapterError, match="2 class names are given for a head of 3 classes"):
        tune("ssf", "plain").save(tmp_path / "run", class_names=["a", "b"])
    assert not (tmp_path / "run").exists()


def test_number_of_classes():
    assert num_classes(tune("ssf", "plain")) == 3
    assert num_classes(tune("ssf", "hf_features")) is None


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(AdapterError, match=r"cannot write the adapter to '.*run': File exists"):
        tune("linear", "plain").save(tmp_path / "run")


class Scalars(vitune.LinearProbe):
    """A scalar parameter, and a policy with state."""

    name = "scalars"
    conflicts: ClassVar[dict[str, str]] = {}

    def edits(self, anatomy):
        return [vitune.surgery.AttachAtPoint("blocks.0.output", "blocks.0", "output", "scalars", Scalar)]

    def policy(self, tuned):
        return Remembering()


class Scalar(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


class Remembering(Policy):
    def __init__(self) -> None:
        self.values = {"scores": torch.zeros(3), "epoch": 0}

    def state_dict(self):
        return self.values

    def load_state_dict(self, state):
        self.values = dict(state)


def test_scalars_and_the_state_of_policies_come_back(tmp_path, monkeypatch):
    from vitune.methods import _registry

    monkeypatch.setitem(_registry._METHODS, "scalars", Scalars)
    tuned = randomise(vitune.apply(backbone("plain"), [vitune.SSF(), Scalars()]))
    tuned.policies[0].load_state_dict({"scores": torch.arange(3.0), "epoch": 7})
    tuned.model.eval()
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=backbone("plain"))
    state = loaded.policies[0].state_dict()
    assert state["epoch"] == 7
    assert torch.equal(state["scores"], torch.arange(3.0))
    with torch.no_grad():
        assert torch.equal(loaded(images("plain")), tuned(images("plain")))


def test_what_is_not_a_number_is_written_as_it_is(tmp_path):
    tuned = tune("linear", "plain")
    with torch.no_grad():
        tuned.model.head.weight[0, 0] = float("nan")
    tuned.save(tmp_path)
    assert load_file(tmp_path / TENSORS)["head.weight"][0, 0].isnan()


def test_the_hash_is_that_of_the_frozen_bytes_alone():
    tuned = tune("bitfit", "plain")
    before = frozen_hash(tuned)
    randomise(tuned)
    assert frozen_hash(tuned) == before
    with torch.no_grad():
        tuned.model.cls_token[0, 0, 0] += 1e-6
    assert frozen_hash(tuned) != before
    assert frozen_hash(tune("linear", "plain")) != before


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from typing import ClassVar
from tests.contract.cases import tune
from vitune.errors import AdapterError
tuned = tune("lora(rank=16,roles=all-linear)" if sys.argv[2] == "tensors" else "linear", "plain")
note = "" if sys.argv[2] == "tensors" else "x" * 20000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
try:
    tuned.save(Path(sys.argv[1]), extra={"note": note})
except AdapterError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE is POSIX's")
@pytest.mark.parametrize("too_large", ["tensors", "config"])
def test_a_full_disk_leaves_the_old_adapter(too_large, tmp_path):
    old = save_small(tmp_path, "linear")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), too_large]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"cannot write the adapter to '{tmp_path}': File too large."
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    loaded = vitune.load(tmp_path, model=backbone("plain"))
    with torch.no_grad():
        assert torch.equal(loaded(images("plain")), old(images("plain")))

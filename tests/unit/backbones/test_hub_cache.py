"""Weights out of the local hub cache, without a network: by `hf-hub:` name, by `timm/` name and by timm's own tag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.unit.adapters.hub_cache import fill

from vitune.backbones import create, describe_source, rebuild

NAME = "test_vit.r160_in1k"


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose weights lie in the cache, as timm publishes them."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    (tmp_path / "files").mkdir()
    save_file(model.state_dict(), tmp_path / "files" / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {**model.pretrained_cfg}}
    config["pretrained_cfg"] |= {"tag": "r160_in1k", "num_classes": 1000}
    (tmp_path / "files" / "config.json").write_text(json.dumps(config))
    fill(tmp_path / "cache", f"timm/{NAME}", tmp_path / "files", monkeypatch)
    return model


@pytest.mark.parametrize("name", [f"hf-hub:timm/{NAME}", f"timm/{NAME}", NAME, "test_vit"])
def test_weights_in_the_cache_load_without_a_network(name: str, origin: Any):
    model = create(name, num_classes=3)
    own, published = model.state_dict(), origin.state_dict()
    assert all(torch.equal(own[key], published[key]) for key in own if not key.startswith("head."))
    assert own["head.weight"].shape[0] == 3
    source = describe_source(model)
    assert source is not None
    again = rebuild(source, 3).state_dict()
    assert all(torch.equal(again[key], own[key]) for key in own if not key.startswith("head."))

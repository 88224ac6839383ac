"""Adapters on the hub: out of the local cache without a network, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.contract.families import backbone, images
from tests.unit.adapters.hub_cache import fill
from tests.unit.adapters.saved import save_small

import vitune
from vitune.adapters import CONFIG, TENSORS, copy_for_others, read_config
from vitune.errors import AdapterError


def test_an_adapter_in_the_cache_loads_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tuned = save_small(tmp_path / "run", class_names=("a", "b", "c"))
    snapshot = fill(tmp_path / "cache", "someone/flowers", tmp_path / "run", monkeypatch)
    assert (snapshot / TENSORS).is_symlink()
    for name in (
        "hf-hub:someone/flowers",
        Path("hf-hub:someone/flowers"),
        f"hf-hub:someone/flowers@{snapshot.name}",
    ):
        loaded = vitune.load(name, model=backbone("plain"))
        assert loaded.class_names == ("a", "b", "c")
        with torch.no_grad():
            assert torch.equal(loaded(images("plain")), tuned(images("plain")))


@pytest.mark.parametrize("name", ["someone/else", "someone/flowers@other", "no name", "a/b/c"])
def test_what_is_not_there_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_small(tmp_path / "run")
    fill(tmp_path / "cache", "someone/flowers", tmp_path / "run", monkeypatch)
    with pytest.raises(AdapterError, match=f"the adapter 'hf-hub:{name}' cannot be fetched") as caught:
        vitune.load(f"hf-hub:{name}", model=backbone("plain"))
    assert len(str(caught.value).splitlines()) == 1
    assert "or give a directory" in str(caught.value)


def test_a_repository_without_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("a card alone")
    fill(tmp_path / "cache", "someone/card", tmp_path / "other", monkeypatch)
    with pytest.raises(AdapterError, match=f"the file '{CONFIG}' is missing"):
        vitune.load("hf-hub:someone/card", model=backbone("plain"))


def test_a_link_out_of_the_cache_is_still_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_small(tmp_path / "run")
    snapshot = fill(tmp_path / "cache", "someone/flowers", tmp_path / "run", monkeypatch)
    (snapshot / CONFIG).unlink()
    (snapshot / CONFIG).symlink_to(tmp_path / "run" / CONFIG)
    with pytest.raises(AdapterError, match="is a link that leads out of the directory"):
        vitune.load("hf-hub:someone/flowers", model=backbone("plain"))


def test_a_copy_for_others_names_no_folder_of_this_machine(tmp_path: Path):
    from safetensors.torch import save_file

    from vitune.backbones import create

    small = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    plain = create("vit_tiny_patch16_224", num_classes=3, pretrained=False, **small)
    save_file(plain.state_dict(), tmp_path / "mine.safetensors")
    model = create("vit_tiny_patch16_224", num_classes=3, weights=tmp_path / "mine.safetensors", **small)
    tuned = vitune.apply(model, vitune.BitFit())
    tuned.save(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    config = copy_for_others(tmp_path / "run", tmp_path / "copy")
    assert config == read_config(tmp_path / "copy")
    assert config["backbone"]["weights"] == "mine.safetensors"
    assert str(tmp_path) not in (tmp_path / "copy" / CONFIG).read_text()
    loaded = vitune.load(tmp_path / "copy", weights=tmp_path / "mine.safetensors")
    image = torch.randn(1, 3, 32, 32)
    tuned.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(image), tuned(image))
    (tmp_path / "run" / TENSORS).write_bytes(b"damaged")
    with pytest.raises(AdapterError, match="is not the file that"):
        copy_for_others(tmp_path / "run", tmp_path / "copy")

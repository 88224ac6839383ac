"""Adapters of ours, held by PEFT itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.families import backbone, images

import vitune
from vitune.anatomy import logits
from vitune.errors import AdapterError, CompositionError, ConfigError
from vitune.interop import peft_bridge
from vitune.methods import parse

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own surroundings

METHODS = [
    "lora(rank=2)",
    "ssf",
    "bitfit",
    "adaptformer(bottleneck=4)",
    "adapter(bottleneck=4)",
    "vpt(prompts=3)",
]
METHODS += ["lora(rank=2),ssf", "peft(r=2)"]


@pytest.fixture(autouse=True)
def _registered() -> None:
    peft_bridge.register()
    peft_bridge.register()  # again does nothing


def trained(text: str, family: str) -> vitune.Tuned:
    tuned = vitune.apply(backbone(family).eval(), parse(text))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return tuned


def scores(model: Any, family: str) -> torch.Tensor:
    with torch.no_grad():
        output = model(images(family))
    return getattr(output, "logits", output)


@pytest.mark.parametrize("family", ["plain", "hf"])
@pytest.mark.parametrize("text", METHODS)
def test_peft_loads_what_we_saved_and_we_load_what_peft_saved(text, family, tmp_path):
    tuned = trained(text, family)
    tuned.save(tmp_path / "ours", class_names=["a", "b", "c"])
    expected = tuned(images(family)).detach()

    model = peft.PeftModel.from_pretrained(backbone(family), tmp_path / "ours")
    assert torch.equal(scores(model, family), expected)
    assert model.get_nb_trainable_parameters()[0] == 0

    model.save_pretrained(tmp_path / "theirs")
    again = vitune.load(tmp_path / "theirs", model=backbone(family))
    assert torch.equal(again(images(family)), expected)
    assert again.class_names == ("a", "b", "c")


@pytest.mark.parametrize("family", ["plain", "hf"])
def test_peft_trains_a_method_of_ours(family, tmp_path):
    model = peft.get_peft_model(backbone(family), peft_bridge.VituneConfig("lora(rank=2),ssf"))
    same = vitune.apply(backbone(family), parse("lora(rank=2),ssf"))
    assert model.get_nb_trainable_parameters()[0] == same.costs().trained_parameters
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    output = model(images(family))
    getattr(output, "logits", output).square().sum().backward()
    optimizer.step()
    expected = scores(model.eval(), family)
    assert not torch.allclose(scores(same.model.eval(), family), expected)
    model.save_pretrained(tmp_path)
    loaded = vitune.load(tmp_path, model=backbone(family))
    assert torch.equal(loaded(images(family)), expected)
    assert torch.allclose(logits(model.merge_and_unload().eval(), images(family)), expected, atol=1e-4)


def test_an_adapter_comes_off_again():
    plain = backbone("plain").eval()
    before = scores(plain, "plain")
    names = list(plain.state_dict())
    model = peft.get_peft_model(plain, peft_bridge.VituneConfig("lora"))
    back = model.unload()
    assert back is plain
    assert list(back.state_dict()) == names
    assert torch.equal(scores(back, "plain"), before)


def test_an_adapter_may_go_on_training():
    model = peft.get_peft_model(backbone("plain"), peft_bridge.VituneConfig("lora", inference_mode=True))
    assert model.get_nb_trainable_parameters()[0] == 0
    model.set_requires_grad("default")
    assert model.get_nb_trainable_parameters()[0] > 0


def test_another_backbone_is_refused(tmp_path):
    trained("ssf", "plain").save(tmp_path)
    other = backbone("plain")
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    with pytest.raises(
        AdapterError, match="the backbone's weights are not those that the adapter was trained on"
    ):
        peft.PeftModel.from_pretrained(other, tmp_path)
    with pytest.raises(AdapterError, match="the adapter does not fit this backbone: the tensor 'blocks"):
        peft.PeftModel.from_pretrained(backbone("hf"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dyt(bottleneck=4)", "'dyt' acts during training, which PEFT has no place for; use vitune.load"),
        ("", r"VituneConfig names no method; for instance VituneConfig\('ssf'\)"),
    ],
)
def test_methods_that_peft_cannot_hold_are_refused(text, message):
    model = backbone("plain")
    before = list(model.state_dict())
    with pytest.raises(CompositionError, match=message):
        peft.get_peft_model(model, peft_bridge.VituneConfig(text))
    assert list(model.state_dict()) == before


def test_rounded_matrices_are_refused(tmp_path):
    trained("bi_lora(rank=4,bits=4)", "plain").save(tmp_path)
    with pytest.raises(
        AdapterError, match="rounded to a few bits in its file, which PEFT cannot read; load it with"
    ):
        peft.PeftModel.from_pretrained(backbone("plain"), tmp_path)


def test_switching_off_and_second_adapters_are_refused():
    model = peft.get_peft_model(backbone("plain"), peft_bridge.VituneConfig("lora"))
    with pytest.raises(
        CompositionError, match=r"cannot be switched off for a while; unload\(\) takes it off"
    ):
        model.base_model.disable_adapter_layers()
    with pytest.raises(CompositionError, match=r"merge_and_unload\(\) merges it"):
        model.base_model.merge_adapter()
    with pytest.raises(CompositionError, match="one adapter of vitune at a time"):
        model.add_adapter("second", peft_bridge.VituneConfig("ssf"))


def test_a_folder_of_another_kind_is_refused(tmp_path):
    Path(tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "VITUNE"}))
    with pytest.raises(AdapterError, match="is not a vitune adapter: it has no key 'methods'"):
        peft_bridge.VituneConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("version", ["0.20.0", "0.22.1", "1.0"])
def test_another_release_of_peft_is_refused(monkeypatch, version):
    monkeypatch.setattr(peft, "__version__", version)
    with pytest.raises(ConfigError) as caught:
        peft_bridge.register()
    assert str(caught.value) == (
        f"the bridge into peft was tested with peft 0.21, and {version} is installed; install 'peft>=0.21,<0.22', or "
        f"load the adapter with vitune.load."
    )


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ConfigError, match=r"the bridge into peft needs the package 'peft', .* 'vitune\[peft\]'"
    ):
        peft_bridge.register()

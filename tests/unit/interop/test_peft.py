"""LoRA to and from PEFT: the very function, both ways, with the package itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.contract.families import backbone, images

import vitune
from vitune.errors import AdapterError, CompositionError
from vitune.interop.peft import export_peft, import_peft
from vitune.methods import parse

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def tuned(text: str, family: str) -> vitune.Tuned:
    made = vitune.apply(backbone(family).eval(), parse(text))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def scores_of(model: Any, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(batch)
    return getattr(output, "logits", output)


@pytest.mark.parametrize(
    ("text", "family", "rank"),
    [
        ("lora(rank=3)", "plain", 6),  # q and v of a fused layer: a block diagonal
        ("lora(rank=2,alpha=8.0,roles=attn.q+attn.k+attn.v,share_down=true)", "plain", 2),
        ("lora(rank=2,scale=0.5,roles=all-linear,dropout=0.1,dropout_at=input)", "plain", 2),
        ("lora(rank=2,roles=attn.v+mlp.out)", "glu", 2),
        ("lora(rank=2,roles=attn.q+attn.k+mlp.out)", "plain", 4),  # ranks that differ between layers
        ("lora(rank=2,roles=blocks.1.attn.q)", "plain", 2),
        ("lora(rank=2)", "hf", 2),
        ("lora(rank=2,roles=all-linear)", "hf_swin", 2),
        ("lora(rank=2)", "eva02", 2),
        ("lora(rank=2,alpha=6.0,roles=all-conv,dropout=0.1,dropout_at=input)", "resnet", 2),
        ("lora(rank=2,roles=patch_embed+attn.out)", "plain", 2),
    ],
)
def test_exported_adapters_compute_the_same_in_peft(text, family, rank, tmp_path):
    made = tuned(text, family)
    batch = images(family)
    export_peft(made, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == rank
    loaded = peft.PeftModel.from_pretrained(backbone(family).eval(), tmp_path).eval()
    torch.testing.assert_close(scores_of(loaded, batch), scores_of(made, batch), rtol=1e-5, atol=1e-6)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(scores_of(merged, batch), scores_of(made, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "method"),
    [
        (
            "plain",
            {"target_modules": ["qkv"], "r": 4, "lora_alpha": 16},
            vitune.LoRA(
                rank=4, scale=4.0, roles=("attn.q", "attn.k", "attn.v"), share_down=True, dropout_at="input"
            ),
        ),
        (
            "plain",
            {"target_modules": ["qkv", "fc2"], "r": 4, "lora_alpha": 4, "lora_dropout": 0.25},
            vitune.LoRA(rank=4, scale=1.0, roles=("attn.qkv", "mlp.out"), dropout=0.25, dropout_at="input"),
        ),
        (
            "plain",
            {"target_modules": ["blocks.1.attn.proj"], "r": 2, "lora_alpha": 4, "use_rslora": True},
            vitune.LoRA(rank=2, scale=4 / 2**0.5, roles=("blocks.1.attn.out",), dropout_at="input"),
        ),
        (
            "hf",
            {"target_modules": ["q_proj", "v_proj", "fc1"], "r": 2, "lora_alpha": 2}
            | {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"layers.1.mlp.fc1": 8}},
            vitune.LoRA(rank=3, scale=1.0, roles=("attn.q", "attn.v", "mlp.in"), dropout_at="input"),
        ),
        (
            "resnet",
            {"target_modules": ["conv2", "layer2.0.conv1"], "r": 2, "lora_alpha": 4},
            vitune.LoRA(rank=2, scale=2.0, roles=("conv2", "blocks.1.conv1"), dropout_at="input"),
        ),
    ],
)
def test_adapters_of_peft_compute_the_same_here(family, settings, method, tmp_path):
    head = {"hf": "classifier", "resnet": "fc"}.get(family, "head")
    config = peft.LoraConfig(**settings, modules_to_save=[head], init_lora_weights=False)
    theirs = peft.get_peft_model(backbone(family), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    theirs.save_pretrained(tmp_path)
    ours = import_peft(backbone(family), tmp_path)
    assert ours.methods == (method,)
    batch = images(family)
    torch.testing.assert_close(scores_of(ours, batch), scores_of(theirs, batch), rtol=1e-5, atol=1e-6)
    assert not torch.equal(scores_of(ours, batch), scores_of(backbone(family).eval(), batch))
    again = export_peft(ours, tmp_path / "again")
    back = peft.PeftModel.from_pretrained(backbone(family).eval(), again).eval()
    torch.testing.assert_close(scores_of(back, batch), scores_of(theirs, batch), rtol=1e-5, atol=1e-6)


def test_there_and_back_is_the_same_function(tmp_path):
    made = tuned("lora(rank=2)", "plain")
    again = import_peft(backbone("plain"), export_peft(made, tmp_path))
    assert again.methods[0].share_down  # type: ignore[attr-defined]
    batch = images("plain")
    torch.testing.assert_close(scores_of(again, batch), scores_of(made, batch), rtol=1e-5, atol=1e-6)


def test_what_is_not_lora_alone_is_not_exported(tmp_path):
    with pytest.raises(CompositionError, match="takes a model tuned by lora alone; here it is lora, ssf"):
        export_peft(tuned("lora,ssf", "plain"), tmp_path)
    with pytest.raises(CompositionError, match="here it is bitfit"):
        export_peft(tuned("bitfit", "plain"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_that_peft_cannot_edit_are_not_exported(tmp_path):
    with pytest.raises(
        AdapterError, match=r"no effect on 'blocks\.0\.attn\.qkv' .*: Beit reads its weight without"
    ):
        export_peft(tuned("lora", "beit"), tmp_path)


def test_convolutions_that_peft_updates_otherwise_are_not_exported(tmp_path):
    with pytest.raises(
        AdapterError,
        match=r"of the convolution 'stages\.0\.blocks\.0\.conv_dw' is not .* has 8 groups; leave",
    ):
        export_peft(tuned("lora(rank=2,roles=dwconv)", "convnext"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_adapters_of_other_kernels_are_refused(tmp_path):
    folder = export_peft(tuned("lora(rank=2,roles=blocks.0.conv1)", "resnet"), tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.layer1.0.conv1.lora_A.weight"
    save_file(tensors | {name: tensors[name][..., :1].clone()}, folder / "adapter_model.safetensors")
    with pytest.raises(
        AdapterError, match=r"'layer1\.0\.conv1' with kernels of \(3, 1\); here they are of \(3, 3"
    ):
        import_peft(backbone("resnet"), folder)


def saved(tmp_path: Path) -> Path:
    return export_peft(tuned("lora(rank=2)", "plain"), tmp_path / "saved")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "is of type LOHA; only LORA can be imported"),
        ({"use_dora": True}, "has use_dora=True, which is more than LoRA as we have it"),
        ({"bias": "all"}, "has bias='all', which is more"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights='pissa', which is more"),
    ],
)
def test_other_settings_are_refused(change, message, tmp_path):
    folder = saved(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    model = backbone("plain")
    with pytest.raises(AdapterError, match=message):
        import_peft(model, folder)
    assert not [name for name in model.state_dict() if ".vitune." in name]


def _renamed(name: str, new: str):
    return lambda tensors: {new if key == name else key: value for key, value in tensors.items()}


A = "base_model.model.blocks.0.attn.qkv.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed(A, A.replace("blocks.0", "blocks.7")), "does not hold an A and a B for every layer"),
        (
            _renamed(A, A.replace("lora_A.weight", "lora_magnitude_vector")),
            "holds 'blocks.0.attn.qkv.lora_magnit",
        ),
        (
            lambda t: {k.replace("attn.qkv", "attn.kqv"): v for k, v in t.items()},
            "adapts 'blocks.0.attn.kqv', which",
        ),
        (
            lambda t: t | {A: t[A][:, :5]},
            "is for a layer 'blocks.0.attn.qkv' of 5 inputs and 96 outputs; here",
        ),
        (
            lambda t: t | {"base_model.model.norm.bias": t[A][0]},
            "'norm.bias', which is neither LoRA nor the head",
        ),
        (
            lambda t: t | {"base_model.model.head.bias": torch.zeros(5)},
            "'head.bias' of shape (5,); the model's has (3,), so make it with as many classes",
        ),
        (lambda t: {}, "does not hold an A and a B"),
    ],
)
def test_other_tensors_are_refused(change, message, tmp_path):
    folder = saved(tmp_path)
    tensors = change(load_file(folder / "adapter_model.safetensors"))
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "adapter_model.safetensors")
    model = backbone("plain")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(AdapterError, match=re.escape(message)):
        import_peft(model, folder)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_directory_without_an_adapter(tmp_path):
    with pytest.raises(AdapterError, match=r"no PEFT adapter in .*: it has no adapter_config\.json"):
        import_peft(backbone("plain"), tmp_path)

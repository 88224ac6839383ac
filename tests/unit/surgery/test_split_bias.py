"""Fused qkv layers whose bias the attention keeps: edits act, nothing moves, merging finds the right place."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch

import vitune
from vitune.adapters import merge, unfoldable
from vitune.anatomy import anatomy
from vitune.methods import parse

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 3}
MODELS = {
    "beit": ("beitv2_base_patch16_224", {**SMALL, "img_size": 32, "global_pool": "token"}),
    "eva": ("eva_giant_patch14_224", {**SMALL, "img_size": 28, "global_pool": "token"}),
    "rotating": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 28, "global_pool": "token"}),
    "cosine": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (1, 1)}
        | {"num_heads": (2, 2), "num_classes": 3},
    ),
}


def model(kind: str) -> Any:
    name, arguments = MODELS[kind]
    torch.manual_seed(0)
    made = timm.create_model(name, **arguments)
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def images(plain: Any) -> torch.Tensor:
    return torch.randn(2, *anatomy(plain).input_size, generator=torch.Generator().manual_seed(1))


def tuned(kind: str, text: str) -> vitune.Tuned:
    made = vitune.apply(model(kind), parse(text))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("kind", MODELS)
def test_edits_of_qkv_act_and_start_as_the_very_same_function(kind):
    plain = model(kind)
    made = vitune.apply(model(kind), vitune.LoRA())  # the gate passes
    batch = images(plain)
    with torch.no_grad():
        expected = plain(batch)
        assert torch.equal(made(batch), expected)
        assert not torch.equal(tuned(kind, "lora")(batch), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_names_stay_and_detach_brings_everything_back(kind):
    plain, made = model(kind), tuned(kind, "lora,ssf")
    names = [name for name in made.model.state_dict() if ".vitune." not in name]
    assert names == list(plain.state_dict())
    made.detach()
    assert [type(module) for module in made.model.modules()] == [type(module) for module in plain.modules()]
    assert all(m.q_bias is not None for m in made.model.modules() if hasattr(m, "q_bias"))


@pytest.mark.parametrize("kind", MODELS)
def test_biases_are_trained_where_they_are(kind):
    made = tuned(kind, "bitfit,lora")
    trained = made.trainable()
    biases = [name for name, _ in model(kind).named_parameters() if name.endswith(("q_bias", "v_bias"))]
    assert biases
    assert set(biases) <= trained.keys()
    plain = copy.deepcopy(made)
    batch = images(made.model)
    with torch.no_grad():
        before = made(batch)
        trained[biases[0]].add_(1.0)
        assert not torch.equal(made(batch), before)
        assert torch.equal(plain(batch), before)  # the copy reads its own


@pytest.mark.parametrize("kind", MODELS)
def test_copies_pickles_and_compiled_models_compute_the_same(kind):
    made = tuned(kind, "lora,ssf")
    batch = images(made.model)
    with torch.no_grad():
        expected = made(batch)
        assert torch.equal(copy.deepcopy(made)(batch), expected)
        assert torch.equal(pickle.loads(pickle.dumps(made))(batch), expected)
        torch._dynamo.reset()
        made.model.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(made(batch), expected, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["beit", "rotating"])
def test_exported_models_compute_the_same(kind):
    made = tuned(kind, "lora,ssf")
    batch = images(made.model)
    program = torch.export.export(made.model, (batch,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(batch), made(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", ["lora", "ssf", "lora,ssf", "bitfit,ssf"])
@pytest.mark.parametrize("kind", ["beit", "eva"])
def test_merged_shifts_go_to_the_biases_of_q_and_v(kind, text):
    made = tuned(kind, text)
    batch = images(made.model)
    with torch.no_grad():
        expected = made(batch)
        merged = merge(made)
        torch.testing.assert_close(merged(batch), expected, rtol=1e-5, atol=1e-5)
    plain = model(kind)
    assert list(merged.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(merged.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["rotating", "cosine"])
def test_a_shift_of_keys_that_matters_is_not_merged(kind):
    made = tuned(kind, "lora,ssf")
    stuck = [place for place in unfoldable(made) if ".attn.qkv" in place]
    assert stuck == ["blocks.0.attn.qkv (ssf)", "blocks.1.attn.qkv (ssf)"]
    batch = images(made.model)
    with torch.no_grad():
        expected = made(batch)
        merge(made, partial=True)
        torch.testing.assert_close(made(batch), expected, rtol=1e-5, atol=1e-5)
    assert not [name for name in made.model.state_dict() if name.endswith("qkv.bias")]


def test_an_edit_of_the_output_layer_leaves_the_attention_alone():
    made = vitune.apply(model("beit"), vitune.LoRA(roles=("attn.out",)))
    assert not [m for m in made.model.modules() if hasattr(m, "vitune") and hasattr(m.vitune, "split_bias")]

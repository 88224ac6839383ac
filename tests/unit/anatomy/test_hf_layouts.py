"""Roles do not change where transformers renamed layers; faked here by trees of the older releases' names."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.families import FAMILIES, backbone
from torch import nn

from vitune.anatomy import anatomy, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.surgery import points_for

WIDTH, HIDDEN = 32, 64


def tree(paths: dict[str, nn.Module]) -> nn.Module:
    """Modules by path, as one module."""
    root = nn.Module()
    for path, module in paths.items():
        *parents, name = path.split(".")
        here = root
        for parent in parents:
            if not hasattr(here, parent):
                here.add_module(parent, nn.Module())
            here = here.get_submodule(parent)
        here.add_module(name, module)
    return root


def linear(fan_in: int = WIDTH, fan_out: int = WIDTH) -> nn.Module:
    return nn.Linear(fan_in, fan_out)


def norm() -> nn.Module:
    return nn.LayerNorm(WIDTH)


def old_vit_layer() -> dict[str, nn.Module]:
    """Of ViT, DeiT and BEiT until transformers 5."""
    attention = {f"attention.attention.{name}": linear() for name in ("query", "key", "value")}
    return attention | {
        "attention.output.dense": linear(),
        "intermediate.dense": linear(WIDTH, HIDDEN),
        "output.dense": linear(HIDDEN, WIDTH),
        "layernorm_before": norm(),
        "layernorm_after": norm(),
    }


def old_dinov2_layer(gated: bool = False) -> dict[str, nn.Module]:
    attention = {f"attention.attention.{name}": linear() for name in ("query", "key", "value")}
    inner = (
        {"mlp.weights_in": linear(WIDTH, 2 * HIDDEN), "mlp.weights_out": linear(HIDDEN, WIDTH)}
        if gated
        else {"mlp.fc1": linear(WIDTH, HIDDEN), "mlp.fc2": linear(HIDDEN, WIDTH)}
    )
    rest = {"attention.output.dense": linear(), "norm1": norm(), "norm2": norm()}
    return attention | inner | rest


def old_clip_layer() -> dict[str, nn.Module]:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    inner = {"mlp.fc1": linear(WIDTH, HIDDEN), "mlp.fc2": linear(HIDDEN, WIDTH)}
    return (
        {f"self_attn.{name}": linear() for name in names}
        | inner
        | {"layer_norm1": norm(), "layer_norm2": norm()}
    )


def old_model(folder: str, name: str, paths: dict[str, nn.Module], layer: str, **config: Any) -> nn.Module:
    """A module that says it is a class of transformers."""
    kind = type(name, (nn.Module,), {"__module__": f"transformers.models.{folder}.modeling_{folder}"})
    model = kind()
    model.__dict__.update(tree(paths).__dict__)
    block = type(layer, (nn.Module,), {"__module__": kind.__module__, "forward": lambda self, x: x})
    for module in model.modules():
        for child in module.children() if isinstance(module, nn.ModuleList) else ():
            child.__class__ = block
    sizes = {
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "num_channels": 3,
    }
    vision = SimpleNamespace(**{**sizes, "use_mean_pooling": False, "num_register_tokens": 0, **config})
    model.config = SimpleNamespace(**vars(vision), vision_config=vision)  # type: ignore[assignment]
    return model


def stack(layer: Any) -> nn.ModuleList:
    return nn.ModuleList([tree(layer()) for _ in range(2)])


def patch() -> nn.Module:
    return nn.Conv2d(3, WIDTH, 16, 16)


OLD = {
    "hf": lambda: old_model(
        "vit",
        "ViTForImageClassification",
        {"vit.embeddings.patch_embeddings.projection": patch(), "vit.encoder.layer": stack(old_vit_layer)}
        | {"vit.layernorm": norm(), "classifier": linear(WIDTH, 3)},
        "ViTLayer",
    ),
    "hf_deit": lambda: old_model(
        "deit",
        "DeiTForImageClassification",
        {"deit.embeddings.patch_embeddings.projection": patch(), "deit.encoder.layer": stack(old_vit_layer)}
        | {"deit.layernorm": norm(), "classifier": linear(WIDTH, 3)},
        "DeiTLayer",
    ),
    "hf_dinov2": lambda: old_model(
        "dinov2",
        "Dinov2ForImageClassification",
        {"dinov2.embeddings.patch_embeddings.projection": patch()}
        | {"dinov2.encoder.layer": stack(old_dinov2_layer), "dinov2.layernorm": norm()}
        | {"classifier": linear(2 * WIDTH, 3)},
        "Dinov2Layer",
    ),
    "hf_beit": lambda: old_model(
        "beit",
        "BeitForImageClassification",
        {"beit.embeddings.patch_embeddings.projection": patch(), "beit.encoder.layer": stack(old_vit_layer)}
        | {"beit.layernorm": norm(), "classifier": linear(WIDTH, 3)},
        "BeitLayer",
    ),
    "hf_clip": lambda: old_model(
        "clip",
        "CLIPForImageClassification",
        {"vision_model.embeddings.patch_embedding": patch(), "vision_model.pre_layrnorm": norm()}
        | {"vision_model.encoder.layers": stack(old_clip_layer), "vision_model.post_layernorm": norm()}
        | {"classifier": linear(WIDTH, 3)},
        "CLIPEncoderLayer",
    ),
}


@pytest.mark.parametrize("family", OLD)
def test_older_names_play_the_same_roles(family):
    pytest.importorskip("transformers")
    old, new = anatomy(OLD[family]()), anatomy(backbone(family))
    assert old.family == new.family == FAMILIES[family].anatomy
    assert [o.role for o in old.operators] == [o.role for o in new.operators]
    assert [o.in_features for o in old.operators][:2] == [o.in_features for o in new.operators][:2]
    assert [(b.index, b.width, b.num_heads) for b in old.blocks] == [
        (b.index, b.width, b.num_heads) for b in new.blocks
    ]
    assert old.head == ("classifier",)


def test_a_fused_gate_and_value():
    model = OLD["hf_dinov2"]()
    model.dinov2.encoder.layer[0] = tree(old_dinov2_layer(gated=True))  # type: ignore[union-attr, index, operator]
    found = anatomy(model)
    names = [short_name(o.role) for o in found.operators if o.role.startswith("blocks.0.mlp")]
    assert names == ["mlp.in_gate", "mlp.out"]
    slots = found.slots()
    assert slots["blocks.0.mlp.gate"].rows == slice(0, HIDDEN)  # the gate comes first
    assert slots["blocks.0.mlp.in"].rows == slice(HIDDEN, 2 * HIDDEN)


def test_a_tower_below_another_module():
    """`CLIPVisionModel` of older releases keeps its tower below `vision_model`."""
    whole = OLD["hf_clip"]()
    whole.__class__ = type("CLIPVisionModel", (nn.Module,), {"__module__": type(whole).__module__})
    found = anatomy(whole)
    assert found.blocks[1].path == "vision_model.encoder.layers.1"
    assert found.operators[-1].role == "norm"


def test_points_need_the_newer_layout():
    layer = OLD["hf"]().get_submodule("vit.encoder.layer.0")
    with pytest.raises(
        UnsupportedBackboneError,
        match=r"ViTLayer of this transformers release is laid out differently: it has no 'mlp', .* \(lora, ssf",
    ):
        points_for(layer)


def test_a_layer_that_is_nowhere():
    model = OLD["hf"]()
    del model.get_submodule("vit.encoder.layer.1.attention.output").dense
    message = (
        "ViTForImageClassification of this transformers release is laid out differently: looked for a layer at "
        r"'vit\.encoder\.layer\.1\.attention\.o_proj' or .* or 'vit\.encoder\.layer\.1\.attention\.output\.dense'"
    )
    with pytest.raises(UnsupportedBackboneError, match=message):
        anatomy(model)


def test_nothing_is_imported_to_look(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("transformers")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UnsupportedBackboneError, match="no known backbone family matches Linear"):
        anatomy(nn.Linear(1, 1))
    assert not [name for name in sys.modules if name.startswith("transformers")]

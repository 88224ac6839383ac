"""DyT's harness and library against DyT written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import dyt

TRAIN = {"kind": "model_train_loss"}
MODELS = {
    "narrow_rectangular": {"bottleneck": 1, "scale": 10.0, "input_hw": [24, 40], "depth": 1},
    "norm_out_learnable": {
        "adapter_layernorm": "out",
        "scale": "learnable",
        "layerscale_init": 1e-5,
        "mlp_ratio": 4.0,
    },
    "another_threshold": {"threshold": 0.6, "adapter_layernorm": "in", "num_classes": 9},
    "train_another_rate": TRAIN | {"tau": 0.7, "target_ratio": 0.9, "rate_weight": 3.5, "threshold": 0.4},
    "train_norm_out": TRAIN | {"adapter_layernorm": "out", "scale": "learnable", "layerscale_init": 0.1},
    "gates_from_the_second_block_on": TRAIN | {"keep_layers": 1, "depth": 3},
    "moe_sigmoid": {"experts": 2, "routing": "sigmoid", "adapter_layernorm": "in", "scale": "learnable"},
    "moe_norm_out": {"experts": 3, "routing": "softmax", "adapter_layernorm": "out"},
    "moe_train": TRAIN | {"experts": 4, "routing": "softmax"},
    "video_odd_frames": {"kind": "video_eval", "frames": 3, "adapter_layernorm": "in", "scale": "learnable"},
    "video_moe": {"kind": "video_eval", "frames": 2, "experts": 2, "routing": "softmax"},
    "video_train": {"kind": "video_train_loss", "frames": 2, "tau": 1.0, "layerscale_init": 0.1},
    "attention": {"variant": "attention_dispatch", "layerscale_init": 0.1},
    "attention_mlp": {"variant": "attention_mlp_dispatch", "adapter_layernorm": "out"},
    "layer": {"variant": "layer_dispatch", "scale": "learnable"},
    "attention_mlp_train": TRAIN | {"variant": "attention_mlp_dispatch"},
    "layer_train": TRAIN | {"variant": "layer_dispatch", "layerscale_init": 0.1},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, tmp_path):
    result = check(dyt.golden(tmp_path / f"{name}.safetensors", **MODELS[name]))
    assert result["ok"], result


FEATURES = {
    "rectangular": {"out_indices": [0, 2, 3, 4], "depth": 5, "input_hw": [32, 48], "target_ratio": 0.7},
    "options": {
        "out_indices": [0, 1, 2, 3],
        "depth": 4,
        "scale": "learnable",
        "adapter_layernorm": "in",
        "layerscale_init": 0.1,
        "keep_layers": 2,
    },
}


@pytest.mark.parametrize("name", FEATURES)
def test_features(name, tmp_path):
    result = check(dyt.features(tmp_path / f"{name}.safetensors", **FEATURES[name]))
    assert result["ok"], result

"""VeLoRA's harness and library against VeLoRA written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import velora

INITS = ("batch_average_once", "batch_average", "ema_0.5", "uniform", "none")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("init", INITS)
def test_linear(init, half, tmp_path):
    path = tmp_path / "linear.safetensors"
    result = check(
        velora.linear(path, groups=[1, 4, 12], init=init, batches=3, bias=init != "uniform", half=half)
    )
    assert result["ok"], result


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    ("groups", "rank", "alpha", "half"), [(1, 1, 1, False), (12, 3, 16, False), (4, 2, 8, True)]
)
def test_lora(init, groups, rank, alpha, half, tmp_path):
    sizes = {"groups": groups, "rank": rank, "alpha": alpha, "scale": 1.5, "half": half}
    result = check(velora.lora(tmp_path / "lora.safetensors", init=init, bias=groups == 1, **sizes))
    assert result["ok"], result


@pytest.mark.parametrize(("groups", "scale"), [(1, 0.1), (6, 1.5)])
def test_ssf(groups, scale, tmp_path):
    result = check(velora.ssf(tmp_path / "ssf.safetensors", groups=groups, scale=scale))
    assert result["ok"], result


MODELS = {
    "running_average": {"groups": 6, "scale": 0.5, "init": "ema_0.9"},
    "every_batch": {"groups": 1, "scale": 1.0, "init": "batch_average", "img_size": 40, "patch_size": 8},
    "half": {"groups": 6, "scale": 0.1, "init": "batch_average", "half": True},
    "drawn": {"groups": 4, "scale": 1.0, "init": "none", "depth": 1},
    "qkv_too": {"groups": 8, "scale": 2.0, "init": "batch_average_once", "layers": "qkvd"},
    "qkv_alone": {"groups": 3, "scale": 1.0, "init": "uniform", "layers": "qkv", "mlp_ratio": 4.0},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, tmp_path):
    result = check(velora.model(tmp_path / f"{name}.safetensors", **MODELS[name]))
    assert result["ok"], result

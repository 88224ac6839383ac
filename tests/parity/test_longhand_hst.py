"""HST's harness and library against HST written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import hst

MODELS = {
    "rectangular_odd": {"input_hw": [48, 80], "num_classes": 3},
    "no_bias_affine_head": {
        "side_qkv_bias": False,
        "side_mlp_ratio": 2.0,
        "bn1d_affine": True,
        "m_depths": [2, 1, 1, 1],
    },
    "dense_widths_many_tokens": {
        "m_embed_dims": [8, 16, 24, 48],
        "m_c_num_heads": [1, 2, 3, 6],
        "metaG_num": 5,
    },
    "stages_of_all_sizes": {"m_depths": [1, 3, 1, 2], "img_size": 28, "patch_size": 14, "metaG_num": 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, tmp_path):
    result = check(hst.golden(tmp_path / f"{name}.safetensors", **MODELS[name]))
    assert result["ok"], result

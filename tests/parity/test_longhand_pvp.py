"""PVP's harness and library against PVP written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import pvp

TRANSFERS = {
    "other_sizes": {"prompts": 1, "rank": 1, "scaling": 4.0, "bottleneck": 1, "depth": 3, "mlp_ratio": 3.0},
    "uneven_tokens_gelu": {"activation": "GELU", "img_size": 40, "patch_size": 8, "classes": (2, 9)},
    "one_kind": {"kinds": ("lora",), "qkv_bias": False},
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer(name, tmp_path):
    result = check(pvp.transfer(tmp_path / f"{name}.safetensors", **TRANSFERS[name]))
    assert result["ok"], result

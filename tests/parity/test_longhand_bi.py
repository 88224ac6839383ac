"""The low-bit methods' harness and library against them written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import bi

MODELS = {
    "adaptformer_b2": {"kind": "adaptformer", "dim": 3, "bits": 2, "scale": 0.1},
    "adaptformer_b8_bihead": {"kind": "adaptformer", "dim": 2, "bits": 8, "scale": 1.0, "binary_head": True},
    "adaptformer_b32": {"kind": "adaptformer", "dim": 3, "bits": 32, "scale": 0.5},
    "lora_b2_bihead": {"kind": "lora", "dim": 1, "bits": 2, "scale": 10.0, "binary_head": True, "depth": 1},
    "lora_b32_bihead": {"kind": "lora", "dim": 4, "bits": 32, "scale": 0.5, "binary_head": True},
    "lora_b1_small_scale": {"kind": "lora", "dim": 16, "bits": 1, "scale": 0.01, "num_classes": 16},
    # 20 weights of 1 bit do not fill whole bytes.
    "adaptformer_b1_part_of_a_byte": {
        "kind": "adaptformer",
        "dim": 1,
        "bits": 1,
        "scale": 1.0,
        "embed_dim": 20,
        "num_heads": 2,
        "img_size": 40,
        "patch_size": 8,
    },
    "bihead_of_a_part_of_a_byte": {
        "kind": "lora",
        "dim": 2,
        "bits": 4,
        "scale": 1.0,
        "embed_dim": 20,
        "num_heads": 2,
    }
    | {"binary_head": True},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, tmp_path):
    result = check(bi.model(tmp_path / f"{name}.safetensors", **{"binary_head": False, **MODELS[name]}))
    assert result["ok"], result


PUBLISHED = {
    "adaptformer": {"kind": "adaptformer", "dim": 8, "binary_head": False, "num_classes": 11},
    "lora_bihead_without_indices": {"kind": "lora", "dim": 4, "binary_head": True, "index": False},
    "lora_b4": {"kind": "lora", "dim": 3, "bits": 4, "binary_head": False, "embed_dim": 32},
    "without_the_file": {"kind": "adaptformer", "dim": 8, "binary_head": True, "raw": False},
    "without_file_and_indices": {
        "kind": "lora",
        "dim": 8,
        "binary_head": False,
        "raw": False,
        "index": False,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name, tmp_path):
    usual = {"bits": 1, "index": True, "raw": True, "num_classes": 8}
    result = check(bi.published(tmp_path / f"{name}.safetensors", **usual | PUBLISHED[name]))
    assert result["ok"], result

"""SPT's harness and library against SPT written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import spt

NONE, ALL = (0,) * 6, (1,) * 6
MIXED = {
    "blocks.0.attn.k.weight": 7,
    "blocks.0.attn.k.bias": 3,
    "blocks.1.mlp.fc1.weight": 40,
    "blocks.1.mlp.fc2.weight": 24,
    "blocks.1.attn.proj.weight": 1,
    "blocks.1.mlp.fc2.bias": 2,
}
MODELS = {
    "lora_rank1": {
        "kind": "lora",
        "rank": 1,
        "structured": [(1, 0, 1, 1, 1, 1), NONE],
        "vectors": ["norm.bias"],
    },
    "lora_on_all": {"kind": "lora", "rank": 3, "structured": [ALL, ALL], "vectors": [], "sparse": {}},
    "adapter_on_all": {"kind": "adapter", "rank": 3, "structured": [ALL, ALL], "vectors": [], "sparse": {}},
    "adapter_without_bias": {
        "kind": "adapter",
        "rank": 5,
        "structured": [(1, 0, 1, 1, 1, 1), NONE],
        "vectors": [],
        "adapter_bias": False,
    },
    "vectors_of_qkv_and_norms": {
        "kind": "adapter",
        "rank": 2,
        "structured": [NONE, (0, 1, 0, 0, 1, 0)],
        "vectors": ["blocks.0.attn.v.bias", "blocks.1.attn.q.bias", "blocks.1.norm2.weight", "norm.weight"],
        "sparse": {"blocks.0.attn.q.weight": 5, "blocks.1.attn.k.bias": 4},
    },
    "entries_alone_of_another_size": {
        "kind": "lora",
        "rank": 4,
        "structured": [NONE] * 3,
        "vectors": [],
        "depth": 3,
        "embed_dim": 20,
        "num_heads": 2,
        "mlp_ratio": 3.0,
        "img_size": 40,
        "patch_size": 8,
        "num_classes": 3,
    },
    "none_selected": {
        "kind": "lora",
        "rank": 2,
        "structured": [ALL, NONE],
        "vectors": [],
        "sparse": {"blocks.1.attn.q.weight": 0, "blocks.1.attn.q.bias": 0, "blocks.1.mlp.fc1.weight": 3},
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name, tmp_path):
    result = check(spt.model(tmp_path / f"{name}.safetensors", **{"sparse": MIXED, **MODELS[name]}))
    assert result["ok"], result


PASSES = {
    "few_batches": {"kind": "lora", "rank": 2, "batches": 1, "most": 16},
    "adapter": {"kind": "adapter", "rank": 3, "alpha": 4.0, "beta": 2.0, "batches": 3, "most": 2},
    "structured_only": {"kind": "lora", "rank": 1, "structured_only": True},
    "no_vectors": {"kind": "adapter", "rank": 1, "structured_vector": False, "depth": 3, "mlp_ratio": 4.0},
}


@pytest.mark.parametrize("name", PASSES)
def test_sensitivity(name, tmp_path):
    usual = {
        "alpha": 10.0,
        "beta": 5.0,
        "unit": 2000.0,
        "budgets": [1.0, 0.4, 0.1, 0.001],
        "batches": 2,
        "most": 2,
    }
    result = check(spt.sensitivity(tmp_path / f"{name}.safetensors", **usual | PASSES[name]))
    assert result["ok"], result

"""What the check says of goldens that it cannot reproduce."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.parity.__main__ import main
from tests.parity.harness import ABSOLUTE, RELATIVE, check
from tests.parity.longhand import bi, dyt, hst


def restated(path, *, tensor=None, **metadata):
    """A golden with other metadata, and one tensor moved."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    for group, values in metadata.items():
        old[group] = json.dumps(json.loads(old[group]) | values)
    tensors = load_file(path)
    if tensor:
        tensors[tensor] = tensors[tensor] + 0.01
    save_file(tensors, path, metadata=old)
    return path


@pytest.fixture
def golden(tmp_path):
    return bi.model(tmp_path / "golden.safetensors", kind="lora", dim=2, bits=4, scale=1.0, binary_head=False)


def test_settings_that_nothing_reads_are_named_where_the_golden_fails(golden):
    restated(golden, hyperparameters={"gate": "soft", "activation": "identity"})
    assert check(golden)["ok"]  # what is equal is equal
    result = check(restated(golden, tensor="loss"))
    assert not result["ok"]
    assert {"hyperparameters.gate", "hyperparameters.activation"} <= set(result["metadata_not_read"])
    assert "hyperparameters.scale" not in result["metadata_not_read"]


def test_settings_that_are_read_are_not_ignored(golden):
    for changed in ({"scale": 0.5}, {"bits": 8}):
        result = check(restated(golden, hyperparameters=changed))
        assert not result["ok"]


def test_a_setting_that_is_missing(golden):
    with safe_open(golden, framework="pt") as file:
        metadata = file.metadata() | {"hyperparameters": "{}"}
    save_file(load_file(golden), golden, metadata=metadata)
    assert check(golden)["error"] == "the golden does not state 'kind'"


def test_a_backbone_that_cannot_be_built_does_not_hide_the_next_file(golden, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    other.write_bytes(golden.read_bytes())
    restated(golden, backbone={"num_heads": 5})
    assert main([str(golden), str(other)]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["error"]
    assert not first["ok"]
    assert second["ok"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threshold_strict": False}, "a gate that opens at the threshold itself is not known here"),
        ({"expert_mix": "outputs"}, "experts are mixed by their weights here, by a router without bias"),
    ],
)
def test_gates_and_experts_of_another_kind(changed, message, tmp_path):
    path = restated(dyt.golden(tmp_path / "golden.safetensors"), hyperparameters=changed)
    assert check(path)["error"] == message


def test_stages_that_leave_blocks_out(tmp_path):
    path = hst.golden(tmp_path / "golden.safetensors")
    result = check(restated(path, hyperparameters={"block_indices": [1, 3, 5, 7]}))
    assert result["error"] == "stages that end at blocks [1, 3, 5, 7] do not own [1, 1, 1, 1] blocks each"


def test_what_the_side_network_has_no_choice_about(tmp_path):
    path = hst.golden(tmp_path / "golden.safetensors")
    result = check(restated(path, hyperparameters={"bn_momentum": 0.2}))
    assert result["error"] == "'bn_momentum' is always 0.1 here, not 0.2"


def test_a_published_file_of_another_digest(tmp_path):
    path = bi.published(
        tmp_path / "golden.safetensors",
        kind="lora",
        dim=4,
        bits=1,
        binary_head=True,
        index=True,
        raw=True,
        num_classes=8,
    )
    file = path.with_suffix(".bin")
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    assert check(path)["error"] == "the bytes have another digest than the golden states"


def test_large_features_are_known_less_exactly(tmp_path):
    path = dyt.golden(tmp_path / "golden.safetensors")
    tensors = load_file(path)
    assert check(path)["ok"]
    name = "aux/token_logits"
    largest = tensors[name].abs().max().item()
    allowed = max(ABSOLUTE, RELATIVE * largest)
    for moved, ok in ((0.5 * allowed, True), (20 * allowed, False)):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        changed = tmp_path / "changed.safetensors"
        save_file({**tensors, name: tensors[name] + torch.tensor(moved)}, changed, metadata=metadata)
        assert check(changed)["ok"] is ok

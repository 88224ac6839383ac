"""Every golden is reproduced, and a golden that is off by a thousandth is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.golden import read
from tests.parity.harness import check
from tests.parity.references import known, methods_of
from tests.shared import ROOT, need_shared, shared_folder
from vitune.methods import all_methods

OWN = Path(__file__).parent / "goldens"
GOLDENS = sorted(OWN.rglob("*.safetensors"))
MODELS = [path for path in GOLDENS if read(path).kind == "model"]


def shared_goldens() -> list[Path]:
    """Goldens of the methods known here, in the shared folder; their paths below it."""
    folder = shared_folder() / "golden"
    found = [path for name in sorted(known()) for path in sorted((folder / name).glob("*.safetensors"))]
    return [path.relative_to(folder) for path in found]


def short(path: Path) -> str:
    return "/".join(path.parts[-2:])


@pytest.mark.parametrize("path", GOLDENS, ids=short)
def test_golden(path):
    result = check(path)
    assert result["ok"], json.dumps(result)
    assert result["uncompared"] == []
    assert result["compared"] >= 4


def test_every_method_has_a_golden():
    ours = {
        name
        for name, method in all_methods().items()
        if method.__module__.startswith("vitune.") and method.paper != "ours"
    }
    assert {path.parent.name for path in GOLDENS} == {read(path).method for path in GOLDENS} == known()
    assert set().union(*(methods_of(name) for name in known())) == ours


def test_goldens_in_the_repository_stay_small():
    assert sum(path.stat().st_size for path in OWN.rglob("*")) <= 13 * 2**20


def test_shared_goldens():
    need_shared("golden")
    found = shared_goldens()
    assert len(found) >= len(GOLDENS)
    for path in found:
        result = check(shared_folder() / "golden" / path)
        assert result["ok"], json.dumps(result)


def test_goldens_in_the_repository_are_the_shared_ones():
    folder = need_shared("golden")
    assert {short(path) for path in GOLDENS} <= {str(path) for path in shared_goldens()}
    for path in GOLDENS:
        assert path.read_bytes() == (folder / short(path)).read_bytes()


# A side network has over a hundred tensors, and each alteration is a whole check: of more, every n-th is altered.
MOST_ALTERED = 10


def compared(path: Path) -> list[str]:
    """Names of the tensors that a check compares; whole numbers (indices) may be inputs instead."""
    return [
        name
        for name, tensor in load_file(path).items()
        if tensor.is_floating_point()
        and (name in ("logits", "loss") or name.startswith(("grad/", "aux/")))
        and not name.startswith("aux/imp_")  # further batches: inputs
    ]


def altered(path: Path, folder: Path, name: str, change) -> Path:
    """A copy of a golden with one tensor changed, or left out where `change` gives None."""
    golden, tensors = read(path), load_file(path)
    metadata = {
        "kind": golden.kind,
        "method": golden.method,
        "case": golden.case,
        "backbone": json.dumps(golden.backbone),
        "hyperparameters": json.dumps(golden.hyperparameters),
    }
    new = change(tensors.pop(name).clone())
    if new is not None:
        tensors[name] = new
    out = folder / "altered.safetensors"
    save_file(tensors, out, metadata=metadata)
    return out


def nudged(tensor: torch.Tensor) -> torch.Tensor:
    """One value moved by a thousandth of the largest, or of one."""
    tensor.view(-1)[tensor.numel() // 2] += 1e-3 * max(1.0, tensor.abs().max().item())
    return tensor


@pytest.mark.parametrize("path", MODELS, ids=short)
def test_a_tensor_that_is_off_is_noticed(path, tmp_path):
    names = compared(path)
    assert len(names) >= 4
    for name in names[:: -(-len(names) // MOST_ALTERED)]:
        assert not check(altered(path, tmp_path, name, nudged))["ok"], (
            f"{name} was changed and nothing was noticed"
        )


def rippled(tensor: torch.Tensor) -> torch.Tensor:
    """Every value moved by a thousandth of the largest, up or down at random (norms take out what is common)."""
    signs = 1.0 - 2.0 * torch.randint(2, tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + 1e-3 * max(1.0, tensor.abs().max().item()) * signs


@pytest.mark.parametrize("path", MODELS, ids=short)
def test_a_weight_that_is_off_is_noticed(path, tmp_path):
    tensors = load_file(path)
    names = [name for name, t in tensors.items() if name.startswith("param/") and t.is_floating_point()]
    # Attention does not see the bias of keys: what it adds to all scores of a query is the same.
    unseen = ("k_proj.bias", "key.bias", "attn.k.bias")
    names = sorted(name for name in names if not name.endswith(unseen))[::6]
    if read(path).method == "hst":  # its side network never reads the backbone's final norm
        names = [name for name in names if not name.startswith("param/norm.")]
    assert len(names) >= 4
    for name in names:
        assert not check(altered(path, tmp_path, name, rippled))["ok"], (
            f"{name} was changed and nothing was noticed"
        )


@pytest.mark.parametrize("path", MODELS, ids=short)
def test_a_missing_tensor_is_noticed(path, tmp_path):
    tensors = load_file(path)
    # Whole numbers among the intermediate tensors are places, which are inputs.
    names = sorted(n for n, t in tensors.items() if t.is_floating_point() or not n.startswith("aux/"))
    first = {name.split("/")[0]: name for name in reversed(names)}  # one of each group
    assert {"param", "grad", "input", "labels", "logits", "loss"} <= first.keys()
    for group, name in first.items():
        result = check(altered(path, tmp_path, name, lambda tensor: None))
        # An intermediate tensor is extra evidence: nothing is lost when a golden does not have it.
        assert result["ok"] == (group == "aux"), f"{name} is missing and the result was {result['ok']}"


def test_a_tensor_of_another_name_shape_or_not_a_number_is_noticed(tmp_path):
    path = OWN / "lora/petlvit_r8.safetensors"
    gradient = next(name for name in compared(path) if name.startswith("grad/"))
    assert not check(altered(path, tmp_path, gradient, lambda t: t.unsqueeze(0)))["ok"]
    assert not check(altered(path, tmp_path, "logits", lambda t: t * float("nan")))["ok"]
    tensors = load_file(altered(path, tmp_path, "logits", lambda t: t))
    golden = read(path)
    metadata = {"kind": "model", "method": "lora", "backbone": json.dumps(golden.backbone)}
    metadata["hyperparameters"] = json.dumps(golden.hyperparameters)
    save_file({**tensors, "aux/nowhere": torch.ones(2)}, tmp_path / "extra.safetensors", metadata=metadata)
    assert check(tmp_path / "extra.safetensors")["uncompared"] == ["aux/nowhere"]
    assert not check(tmp_path / "extra.safetensors")["ok"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "nothing is known about method ''"),
        ({"kind": "model", "method": "xyzzy"}, "nothing is known about method 'xyzzy'"),
        ({"kind": "module", "method": "lora"}, "nothing is known about kind 'module' of method 'lora'"),
        (
            {"kind": "model", "method": "linear", "backbone": '{"family": "perceiver"}'},
            "no backbone is known for family 'perceiver'",
        ),
    ],
)
def test_what_is_not_known_is_not_ok(metadata, message, tmp_path):
    path = tmp_path / "golden.safetensors"
    save_file({"input": torch.ones(1)}, path, metadata=metadata or None)
    result = check(path)
    assert result["ok"] is False
    assert result["error"] == message
    assert result["uncompared"] == ["input"]


KEYS = [
    "file",
    "kind",
    "method",
    "case",
    "logits_max_abs",
    "loss_abs",
    "grad_excess",
    "compared",
    "uncompared",
    "ok",
]


def command_line(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.parity", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command_line(tmp_path):
    good = OWN / "linear/vit.safetensors"
    bad = altered(good, tmp_path, "loss", nudged)
    done = command_line(good, good)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [list(line) for line in lines] == [KEYS, KEYS]
    assert lines[0]["file"] == str(good)
    done = command_line(good, bad)
    assert done.returncode == 1
    assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True, False]


def test_command_line_without_files():
    done = command_line()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == "usage: python -m tests.parity FILE..."


def test_command_line_with_what_is_no_golden(tmp_path):
    (tmp_path / "text.safetensors").write_text("no golden")
    done = command_line(
        tmp_path / "text.safetensors", tmp_path / "missing.safetensors", OWN / "linear/vit.safetensors"
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["ok"] for line in lines] == [False, False, True]
    assert all(line["error"] for line in lines[:2])

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.families import backbone

import vitune
from vitune.errors import ConfigError, RunError
from vitune.methods import parse
from vitune.tasks import export as exporting
from vitune.tasks.classification import RunResult, export, export_tuned

RUN_PROGRAM = """
import sys, torch
model = torch.export.load(sys.argv[1]).module()
images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
torch.save(model(images).detach(), sys.argv[2])
assert "vitune" not in sys.modules and "timm" not in sys.modules
"""


def some_images(*size: int) -> torch.Tensor:
    return torch.randn(4, *size, generator=torch.Generator().manual_seed(1))


def randomised(text: str, family: str = "plain") -> vitune.Tuned:
    tuned = vitune.apply(backbone(family).eval(), parse(text))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return tuned


def test_a_program_runs_in_a_process_without_vitune(run: RunResult, tmp_path: Path) -> None:
    result = export(run.directory, tmp_path / "model.pt2", format="torch-export")
    assert result.bytes == (tmp_path / "model.pt2").stat().st_size
    assert result.difference <= 1e-5
    assert result.unmerged == ()
    words = [sys.executable, "-c", RUN_PROGRAM, str(result.path), str(tmp_path / "logits")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = vitune.load(run.directory)(some_images(3, 64, 64))
    torch.testing.assert_close(torch.load(tmp_path / "logits"), expected, rtol=1e-5, atol=1e-5)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["class_names"] == ["blue", "green", "red"]
    assert description["input"] == {"name": "images", "shape": ["batch", 3, 64, 64], "dtype": "float32"}
    assert description["output"]["shape"] == ["batch", 3]
    assert description["preprocessing"] == vitune.load(run.directory).preprocessing
    assert description["max_abs_difference"] == result.difference
    assert description["methods"][0]["settings"]["rank"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits", "model.json", "model.pt2"]


@pytest.mark.parametrize(
    ("text", "family", "merged"),
    [
        ("lora(rank=2)", "beit", True),
        ("dyt(bottleneck=2)", "plain", False),
        ("adaptformer(bottleneck=2)", "hf", False),
        ("vpt(prompts=2)", "plain", False),
    ],
)
def test_onnx_with_a_batch_of_any_size(text: str, family: str, merged: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime: Any = pytest.importorskip("onnxruntime")
    tuned = randomised(text, family)
    images = some_images(*tuned.anatomy.input_size)
    with torch.no_grad():
        expected = tuned(images)
    result = export_tuned(tuned, tmp_path / "model.onnx")
    assert (result.unmerged == ()) is merged
    session = runtime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", *tuned.anatomy.input_size]
    (found,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
    assert b"site-packages" not in result.path.read_bytes()  # no paths of the machine that exported


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, run = exporting._WRITERS["torch-export"]
    other = (write, lambda path, batches: [scores + 0.01 for scores in run(path, batches)])
    monkeypatch.setitem(exporting._WRITERS, "torch-export", other)
    with pytest.raises(
        RunError, match=r"differs from the tuned one by 1\.0e-02 in its logits; nothing written"
    ):
        export_tuned(randomised("bitfit"), tmp_path / "model.pt2", format="torch-export")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = randomised("bitfit")
    forward = tuned.model.forward

    def looking(images: torch.Tensor) -> torch.Tensor:
        return forward(images) if images.sum() > -1e9 else forward(2 * images)

    tuned.model.forward = looking  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RunError, match=r"VisionTransformer cannot be traced by torch\.export: "):
        export_tuned(tuned, tmp_path / "model.pt2", format="torch-export")
    assert list(tmp_path.iterdir()) == []


def test_onnx_holds_no_more_than_two_gibibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "_ONNX_BYTES", 1000)
    with pytest.raises(
        RunError, match=r"has 0\.0 GiB of weights and one ONNX file holds 2 GiB; use torch-export"
    ):
        export_tuned(randomised("bitfit"), tmp_path / "model.onnx")


def test_outputs_are_checked_first(run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.json").write_text("mine")
    cases: list[tuple[str, Any, str]] = [
        ("model.onnx", "onxx", r"there is no format 'onxx'. Did you mean 'onnx'\?"),
        ("model.onnx", "torch-export", r"is no \.pt2 file; give it that ending"),
        ("there.pt2", "torch-export", r"there\.json' exists already; choose another name, or delete it"),
        ("nowhere/model.pt2", "torch-export", "nowhere' does not exist"),
    ]
    for name, kind, message in cases:
        with pytest.raises((ConfigError, RunError), match=message):
            export(run.directory, tmp_path / name, format=kind)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs the package 'onnx.*pip install 'vitune\[export\]'"):
        export(run.directory, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]

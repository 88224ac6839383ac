"""Write a run as one file that other runtimes execute: ONNX, or a program of torch.export."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vitune._extras import require
from vitune.adapters import load, merge, unfoldable
from vitune.anatomy import logits
from vitune.durable import replace_file
from vitune.errors import ConfigError, RunError, did_you_mean
from vitune.tasks.skipping import skipping_of
from vitune.tuned import Tuned

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4
_TRACED, _TRIED = 2, (1, 3)  # batch sizes
_ONNX_BYTES = 2**31 - 2**20  # what one protobuf file holds, less room for the graph
_EXTRA = "Exporting to ONNX"


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        path: The file.
        description: JSON beside it: input, output, class names, preprocessing.
        bytes: Size of the file.
        difference: Largest difference between its logits and the tuned model's, absolute.
        unmerged: `role (edit)` of the edits that are in the graph as layers of their own; empty: fully merged.
        skipping: Of a model that skips tokens, whether the file does so too (`kept`), or computes all and masks
            (`dense, masked`); None for any other.
    """

    path: Path
    description: Path
    bytes: int
    difference: float
    unmerged: tuple[str, ...]
    skipping: str | None = None


def export(run: Path, output: Path, *, format: Format = "onnx", weights: Path | None = None) -> ExportResult:
    """Write a run as a file that runs without vitune; it is executed and compared before it appears.

    Args:
        run: The run directory.
        output: The file to write, `.onnx` or `.pt2`; neither it nor a `.json` of its name may exist.
        format: Of the file.
        weights: File with the backbone's weights, if they are no longer where they were.

    Raises:
        ConfigError: If the format is unknown, or a package that it needs is not installed.
        RunError: If a file exists or has the wrong ending, or as `export_tuned`.
        AdapterError: If the adapter cannot be loaded.
    """
    check_output(output, format)
    return export_tuned(load(run, weights=weights), output, format=format)


def check_output(output: Path, format: Format) -> None:
    """Make sure that a file can be exported to, before anything is computed.

    Raises:
        ConfigError: If the format is unknown, or a package that it needs is not installed.
        RunError: If the file exists, has the wrong ending or no folder.
    """
    if format not in SUFFIXES:
        raise ConfigError(f"there is no format '{format}'. {did_you_mean(str(format), get_args(Format))}")
    if output.suffix != SUFFIXES[format]:
        raise RunError(f"The output '{output}' is no {SUFFIXES[format]} file; give it that ending.")
    for path in (output, output.with_suffix(".json")):
        if path.exists():
            raise RunError(f"The output '{path}' exists already; choose another name, or delete it.")
    if not output.parent.is_dir():
        raise RunError(f"Cannot write '{output}': the directory '{output.parent}' does not exist.")
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "export", _EXTRA)


def export_tuned(tuned: Tuned, output: str | Path, *, format: Format = "onnx") -> ExportResult:
    """Merge what can be merged, trace with a batch of any size, compare, and write.

    Args:
        tuned: The tuned model, in float32 on the CPU; merged in place as far as possible, which is one-way.
        output: As for `export`.
        format: As for `export`.

    Raises:
        ConfigError: As `export`.
        RunError: If the model cannot be traced, its file computes something else, or it cannot be written.
    """
    output = Path(output)
    check_output(output, format)
    tuned.model.eval()
    generator = torch.Generator().manual_seed(0)
    size = tuned.anatomy.input_size
    batches = [torch.randn(n, *size, generator=generator) for n in (_TRACED, *_TRIED)]
    with torch.no_grad():
        expected = [tuned(images) for images in batches]
    unmerged = tuple(unfoldable(tuned))
    skips = skipping_of(tuned)
    # ONNX runtimes want shapes that do not depend on values; torch.export keeps the skipping.
    computed = skips.dense if skips is not None and format == "onnx" else contextlib.nullcontext
    skipping = None if skips is None else ("dense, masked" if format == "onnx" else "kept")
    merge(tuned, partial=True)
    write, run = _WRITERS[format]
    differences: list[float] = []

    def write_and_compare(temporary: Path) -> None:
        with _silenced():
            with (
                torch.no_grad(),
                computed(),
            ):  # other attention kernels: of those of training ONNX cannot take BEiT's
                write(Classifier(tuned.model).eval(), batches[0], temporary)
            found = run(temporary, batches)
        differences.extend((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))
        limit = TOLERANCE * max(1.0, *(scores.abs().max().item() for scores in expected))
        if not all(difference <= limit for difference in differences):  # also where one is not a number
            raise RunError(
                f"The exported model differs from the tuned one by {max(differences):.1e} in its logits; "
                f"nothing written."
            )

    description = {
        "format": format,
        "input": {"name": "images", "shape": ["batch", *size], "dtype": "float32"},
        "output": {"name": "logits", "shape": ["batch", expected[0].shape[1]], "dtype": "float32"},
        "class_names": None if tuned.class_names is None else list(tuned.class_names),
        "preprocessing": tuned.preprocessing,
        "methods": [{"name": method.name, "settings": method.settings()} for method in tuned.methods],
        "unmerged": list(unmerged),
        "skipping": skipping,
    }
    beside = output.with_suffix(".json")
    try:
        replace_file(output, write_and_compare)
        description["max_abs_difference"] = max(differences)
        text = json.dumps(description, indent=2) + "\n"
        replace_file(beside, lambda temporary: temporary.write_text(text))
    except OSError as error:
        output.unlink(missing_ok=True)
        raise RunError(f"Cannot write '{output}': {error.strerror or error}.") from error
    return ExportResult(output, beside, output.stat().st_size, max(differences), unmerged, skipping)


class Classifier(nn.Module):
    """A model as a module that gives logits, whatever its library wraps them in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, channels, height, width)."""
        return logits(self.model, images)


def _traced(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    try:
        dynamic = ({0: torch.export.Dim("batch", min=1)},)
        return torch.export.export(model, (images,), dynamic_shapes=dynamic)
    except Exception as error:  # torch.export has no error of its own for what it cannot trace
        raise RunError(f"{_name(model)} cannot be traced by torch.export: {_first_line(error)}") from error


def _write_program(model: nn.Module, images: Tensor, path: Path) -> None:
    torch.export.save(_traced(model, images), str(path))


def _run_program(path: Path, batches: list[Tensor]) -> list[Tensor]:
    model = torch.export.load(str(path)).module()
    with torch.no_grad():
        return [model(images) for images in batches]


def _write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    held = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if held > _ONNX_BYTES:
        raise RunError(
            f"{_name(model)} has {held / 2**30:.1f} GiB of weights and one ONNX file holds 2 GiB; use torch-export."
        )
    passes = require("onnx_ir.passes.common", "export", _EXTRA)
    try:
        program: Any = torch.onnx.export(
            _traced(model, images),
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
        )
    except RunError:
        raise
    except Exception as error:  # the exporter passes on errors of many classes
        raise RunError(f"{_name(model)} cannot be translated to ONNX: {_first_line(error)}") from error
    passes.ClearMetadataAndDocStringPass()(program.model)  # which hold paths of this machine's source files
    program.save(str(path))


def _run_onnx(path: Path, batches: list[Tensor]) -> list[Tensor]:
    runtime = require("onnxruntime", "export", _EXTRA)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) for images in batches]


_WRITERS: dict[
    Format, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path, list[Tensor]], list[Tensor]]]
] = {"onnx": (_write_onnx, _run_onnx), "torch-export": (_write_program, _run_program)}


@contextmanager
def _silenced() -> Iterator[None]:
    """Exporters talk about their inner life; what matters is whether the outputs are equal."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name(model: nn.Module) -> str:
    return type(getattr(model, "model", model)).__name__


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the exporters' own texts say at which step, the cause says what
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)

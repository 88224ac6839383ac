"""`result.json`: what a run found and what it cost."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from vitune.adapters import TENSORS
from vitune.measure import machine, versions, wilson
from vitune.methods import method_text, parse
from vitune.tasks.assembly import Assembly
from vitune.tasks.costs import inference_seconds
from vitune.tasks.request import TrainRequest
from vitune.tasks.run_directory import FORMAT
from vitune.training.evaluate import Evaluation
from vitune.training.result import FitResult


def metrics(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """Accuracy with its 95 % interval, and loss.

    Args:
        evaluation: What a model says about a split; None gives None.
    """
    if evaluation is None:
        return None
    low, high = wilson(evaluation.correct, evaluation.count)
    return {
        "accuracy": evaluation.accuracy,
        "low": low,
        "high": high,
        "n": evaluation.count,
        "loss": evaluation.loss,
        "interval": "wilson95",
    }


def compose(
    directory: Path, request: TrainRequest, assembly: Assembly, fitted: FitResult, test: Evaluation | None
) -> dict[str, Any]:
    """The result of a finished run, as JSON values; unknown ones are None.

    Args:
        directory: The run directory, which holds the adapter already.
        request: What decided the run.
        assembly: The model, now trained.
        fitted: How training ended.
        test: The model on the test split, if that was asked for.
    """
    tuned, exact = assembly.tuned, assembly.exact
    costs = tuned.costs()
    sizes = assembly.source.describe()["sizes"]
    return {
        "format": FORMAT,
        "name": directory.resolve().name,
        # As it was asked for: what a method found in the data is among its settings below, and may be long.
        "method": ",".join(method_text(method) for method in parse(request.method)),
        "methods": [{"name": method.name, "settings": method.settings()} for method in tuned.methods],
        "model": {
            "name": _model_name(assembly),
            "family": tuned.anatomy.family,
            "input_size": list(assembly.preprocessing.input_size),
        },
        "data": {
            "path": str(request.data.path),
            "kind": assembly.source.kind,
            "classes": len(assembly.source.class_names),
            **{split: sizes.get(split) for split in ("train", "val", "test")},
        },
        "protocol": fitted.protocol,
        "lr": fitted.lr,
        "metrics": {"val": metrics(fitted.validation), "test": metrics(test)},
        "costs": {
            "trained_parameters": costs.trained_parameters,
            "head_parameters": costs.head_parameters,
            "total_parameters": costs.total_parameters,
            "adapter_bytes": (directory / TENSORS).stat().st_size,
            "saved_activation_bytes": exact.memory.saved_activations,
            "flops_per_image": exact.flops_per_image,
            "step_seconds": _step_seconds(fitted, request.training.batch_size),
            "inference_seconds": inference_seconds(tuned, assembly.preprocessing.input_size),
        },
        "full_finetuning": assembly.full,
        "memory_forecast_bytes": exact.memory.as_dict(),
        "edits": [
            {"role": edit.role, "edit": edit.edit, "parameters": edit.parameters} for edit in costs.edits
        ],
        "blocks": len(tuned.anatomy.blocks),
        "best_epoch": fitted.best_epoch,
        "seed": request.training.seed,
        "command": request.command,
        "environment": {**versions(), "machine": machine_text()},
    }


def machine_text() -> str:
    """The machine in a line; `config.json` has it in full."""
    found = machine()
    memory = found["memory_bytes"]
    parts = [f"{found['cores']} x {found['cpu']}", f"{found['threads']} threads"]
    parts += [f"{memory / 2**30:.0f} GiB"] if memory is not None else []
    return ", ".join([*parts, *(found["gpus"] or ["no GPU"])])


def _model_name(assembly: Assembly) -> str | None:
    from vitune.backbones import describe_source

    source = describe_source(assembly.tuned.model)
    return None if source is None else source.name


def _step_seconds(fitted: FitResult, batch_size: int) -> float | None:
    """Median over epochs of the time of a step without the waiting for data."""
    times = [
        batch_size * (1 - line["data_wait_share"]) / line["images_per_second"]
        for line in fitted.epochs
        if line["images_per_second"]
    ]
    return statistics.median(times) if times else None

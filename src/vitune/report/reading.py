"""Read a run directory: result.json is needed; what else is missing is said to be missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitune.errors import RunError
from vitune.report.fields import Fields, read_object
from vitune.report.log_reading import read_log
from vitune.report.pictures_reading import read_pictures
from vitune.report.predictions_reading import read_predictions
from vitune.report.record import Costs, EditLine, Metric, RunRecord

FORMAT = 1
MISSING = {
    "config.json": "config.json is missing, so the settings shown are those of result.json only.",
    "log.jsonl": "log.jsonl is missing, so there are no curves.",
    "predictions.npz": "predictions.npz is missing, so there are no confusion matrix and no mistakes.",
}


def read_run(directory: Path) -> RunRecord:
    """Read a run directory.

    Args:
        directory: The directory that `vitune train` wrote.

    Raises:
        RunError: If there is no result.json, its format is unknown, or a file holds values of a wrong type.
    """
    path = directory / "result.json"
    if not path.is_file():
        raise RunError(
            f"{directory} holds no result.json: it is no run directory, or its training has not ended; "
            f"finish it with: vitune train --resume {directory}"
        )
    result = read_object(path)
    _check_format(path, result)
    notes = [note for file, note in MISSING.items() if not (directory / file).is_file()]
    log = None
    if (directory / "log.jsonl").is_file():
        log, note = read_log(directory / "log.jsonl")
        notes += [note] if note else []
    config, predictions = directory / "config.json", directory / "predictions.npz"
    pictures = directory / "pictures.json"
    methods = tuple(
        (_required(entry, "name"), entry.mapping("settings").values) for entry in result.objects("methods")
    )
    return RunRecord(
        directory=directory,
        name=result.text("name") or directory.resolve().name,
        method=result.text("method") or ",".join(name for name, _ in methods) or "unknown method",
        methods=methods,
        model=result.mapping("model").values,
        data=_data(result),
        protocol=result.text("protocol"),
        lr=result.number("lr"),
        metrics=_metrics(result),
        costs=_costs(result.mapping("costs")),
        full_finetuning=_costs(result.mapping("full_finetuning")),
        memory_forecast_bytes=_memory(result),
        edits=tuple(_edit(entry) for entry in result.objects("edits")),
        blocks=result.integer("blocks"),
        best_epoch=result.integer("best_epoch"),
        seed=result.integer("seed"),
        command=result.text("command"),
        environment=result.mapping("environment").values,
        config=read_object(config).values if config.is_file() else None,
        log=log,
        predictions=read_predictions(predictions) if predictions.is_file() else None,
        skipping=result.mapping("skipping").values or None,
        pictures=read_pictures(pictures) if pictures.is_file() else None,
        class_names=_class_names(directory),
        notes=tuple(notes),
    )


def _check_format(path: Path, result: Fields) -> None:
    found = result.values.get("format")
    if found != FORMAT:
        raise RunError(
            f"{path} has format {found!r}, but this version of vitune reads format {FORMAT}; "
            "make the report with the version that made the run."
        )


def _required(entry: Fields, key: str) -> str:
    value = entry.text(key)
    if value is None:
        raise RunError(f"{entry.where}: '{entry.prefix}{key}' is missing; make the run again.")
    return value


def _data(result: Fields) -> Mapping[str, Any]:
    data = result.mapping("data")
    for key in ("classes", "train", "val", "test"):
        data.integer(key)
    return data.values


def _metrics(result: Fields) -> dict[str, Metric]:
    metrics = result.mapping("metrics")
    found: dict[str, Metric] = {}
    for split, values in metrics.values.items():
        if values is not None:
            fields = metrics.mapping(split)
            found[split] = Metric(
                accuracy=fields.share("accuracy"),
                low=fields.share("low"),
                high=fields.share("high"),
                n=fields.integer("n"),
                loss=fields.number("loss"),
                interval=fields.text("interval"),
            )
    return found


def _costs(fields: Fields) -> Costs:
    return Costs(
        trained_parameters=fields.integer("trained_parameters"),
        head_parameters=fields.integer("head_parameters"),
        total_parameters=fields.integer("total_parameters"),
        adapter_bytes=fields.integer("adapter_bytes"),
        saved_activation_bytes=fields.integer("saved_activation_bytes"),
        flops_per_image=fields.number("flops_per_image"),
        step_seconds=fields.number("step_seconds"),
        inference_seconds=fields.number("inference_seconds"),
    )


def _memory(result: Fields) -> dict[str, int | None]:
    memory = result.mapping("memory_forecast_bytes")
    return {part: memory.integer(part) for part in memory.values}


def _edit(entry: Fields) -> EditLine:
    return EditLine(_required(entry, "role"), _required(entry, "edit"), entry.integer("parameters") or 0)


def _class_names(directory: Path) -> tuple[str, ...]:
    for file in ("adapter_config.json", "split.json"):
        path = directory / file
        if path.is_file() and (names := read_object(path).texts("class_names")):
            return names
    return ()

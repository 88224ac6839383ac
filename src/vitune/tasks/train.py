"""Train on a data set and leave a run directory, or go on with one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitune.adapters import effect, round_weights
from vitune.data import Samples, Source
from vitune.errors import DataError, RunError, VituneError
from vitune.methods import parse
from vitune.tasks import run_directory as files
from vitune.tasks.assembly import Assembly, assemble, evaluation_pipeline
from vitune.tasks.pictures import picture_values
from vitune.tasks.predictions import write_predictions
from vitune.tasks.request import TrainRequest
from vitune.tasks.results import compose, metrics
from vitune.tasks.skipping import SkippingMeasured, skipping_on
from vitune.training.advice import learning_rate
from vitune.training.batches import evaluation_batches, make_loader
from vitune.training.evaluate import Evaluation, evaluate
from vitune.training.events import Event, OnEvent, ignore
from vitune.training.files import LOG_FILE
from vitune.training.log import RunLog
from vitune.training.loop import fit
from vitune.training.result import FitResult, Status
from vitune.training.tensorboard import TensorBoard

_MEASURED_IMAGES = 64  # by which a model that skips tokens is measured at the end of a run


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: "interrupted" if Ctrl-C ended it early; `resume` goes on with it.
        directory: The run directory.
        result: What `result.json` holds; empty if interrupted.
        next_commands: Commands to try next.
    """

    status: Status
    directory: Path
    result: dict[str, Any]
    next_commands: tuple[str, ...]


def train(request: TrainRequest, *, on_event: OnEvent = ignore, source: Source | None = None) -> RunResult:
    """Train, and leave a run directory with the adapter, the log, the result and a report.

    All that can be wrong with the request is found before the directory is made.

    Args:
        request: What decides the run.
        on_event: Is told what happens; the first event is "plan".
        source: Its data, where the caller opened them already.

    Raises:
        VituneError: If something in the request does not fit, or training cannot go on.
    """
    directory = request.out or files.new_directory(request.data.path, request.method)
    files.check_free(directory)
    listener, board = _listener(directory, request, on_event)
    assembly = assemble(request, source)
    if request.final_test and not assembly.source.has_test:
        raise DataError(f"'{request.data.path}' has no test split; train without the final test.")
    if request.store_bits is not None:
        effect(assembly.tuned, request.store_bits)
    request = replace(request, out=directory)
    if assembly.accelerator.is_main_process:
        files.make_directory(directory)
        files.write_config(directory, request)
        files.write_json(directory / files.SPLIT_FILE, assembly.source.describe())
    assembly.accelerator.wait_for_everyone()
    return _run(directory, request, assembly, listener, board, resume=False)


def resume(directory: Path, *, on_event: OnEvent = ignore, source: Source | None = None) -> RunResult:
    """Go on with a run that was interrupted or killed; it ends as if it had not been.

    A run that is finished already is left as it is, but for a missing report.

    Args:
        directory: The run directory.
        on_event: Is told what happens; the first event is "plan".
        source: Its data, where the caller opened them already.

    Raises:
        RunError: If it is no run directory, one of another version, or the data have changed.
        VituneError: As `train`.
    """
    request = files.read_config(directory)
    finished = directory / files.RESULT_FILE
    if finished.is_file():
        _write_report(directory)
        return _result("finished", directory, request, files.read_json(finished))
    listener, board = _listener(directory, request, on_event)
    assembly = assemble(request, source)
    _check_same_data(directory, assembly)
    return _run(directory, request, assembly, listener, board, resume=True)


def _run(
    directory: Path,
    request: TrainRequest,
    assembly: Assembly,
    listener: OnEvent,
    board: TensorBoard | None,
    *,
    resume: bool,
) -> RunResult:
    listener(Event("plan", _plan(directory, request, assembly)))
    for note in assembly.notes:
        listener(Event("warning", {"message": note}))
    try:
        fitted = fit(
            assembly.tuned,
            assembly.data,
            assembly.training,
            directory=directory,
            resume=resume,
            on_event=listener,
        )
    finally:
        if board is not None:
            board.close()
    if fitted.status == "interrupted":
        return _result("interrupted", directory, request, {})
    return _finish(directory, request, assembly, fitted, listener)


def _finish(
    directory: Path, request: TrainRequest, assembly: Assembly, fitted: FitResult, listener: OnEvent
) -> RunResult:
    """Save the adapter and write what was found; result.json is the last but for the report."""
    rounding = None
    if request.store_bits is not None:
        fitted, rounding = _rounded(request.store_bits, request, assembly, fitted)
    shown: tuple[Evaluation, Samples] | None = None
    if fitted.validation is not None and assembly.validation is not None:
        shown = fitted.validation, assembly.validation
    test = None
    if request.final_test:
        samples = assembly.source.open_test("final")
        test = _evaluated(samples, request, assembly)
        shown = test, samples
    result: dict[str, Any] = {}
    if assembly.accelerator.is_main_process:
        names, preprocessing = assembly.source.class_names, assembly.preprocessing.to_dict()
        assembly.tuned.save(directory, class_names=names, preprocessing=preprocessing)
        files.write_json(directory / files.SPLIT_FILE, assembly.source.describe())
        if shown is not None:
            write_predictions(directory / files.PREDICTIONS_FILE, *shown)
        skipping = _explained(directory, request, assembly, None if shown is None else shown[1], listener)
        result = {**compose(directory, request, assembly, fitted, test), "rounding": rounding}
        result["skipping"] = None if skipping is None else skipping.as_dict()
        _note_end(directory, fitted, test, listener)
        files.write_json(directory / files.RESULT_FILE, result)
        _write_report(directory)
    assembly.accelerator.wait_for_everyone()
    return _result("finished", directory, request, result)


def _explained(
    directory: Path, request: TrainRequest, assembly: Assembly, shown: Samples | None, listener: OnEvent
) -> SkippingMeasured | None:
    """Write what the methods show of a few images, and measure what the model skips. A run does not fail for it."""
    samples = shown if shown is not None else assembly.source.split("train")
    assert samples is not None
    tuned, preprocessing = assembly.tuned, assembly.preprocessing
    try:
        with assembly.accelerator.autocast():
            values = picture_values(tuned, samples, preprocessing)
            if values is not None:
                files.write_json(directory / files.PICTURES_FILE, values)
            size = min(request.training.batch_size, _MEASURED_IMAGES)
            return skipping_on(tuned, samples, preprocessing, most=_MEASURED_IMAGES, batch_size=size)
    except (VituneError, RuntimeError) as error:  # also torch's, where memory is short
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        listener(Event("warning", {"message": f"pictures of the report were not made: {reason}"}))
        return None


def _rounded(
    bits: int, request: TrainRequest, assembly: Assembly, fitted: FitResult
) -> tuple[FitResult, dict[str, Any]]:
    """Make the model what the disk will hold, so that what is reported of it is what a user will get."""
    before = fitted.validation
    found = round_weights(assembly.tuned, bits).as_dict()
    if before is not None and assembly.validation is not None:
        fitted = replace(fitted, validation=_evaluated(assembly.validation, request, assembly))
    return fitted, {**found, "val_before": metrics(before)}


def _evaluated(samples: Samples, request: TrainRequest, assembly: Assembly) -> Evaluation:
    accelerator, config = assembly.accelerator, request.training
    world, rank = accelerator.num_processes, accelerator.process_index
    loader = make_loader(
        evaluation_pipeline(samples, assembly.preprocessing, request),
        evaluation_batches(len(samples), config.batch_size, rank, world),
        config.workers,
    )
    return evaluate(assembly.tuned.model, assembly.tuned, loader, accelerator)


def _note_end(directory: Path, fitted: FitResult, test: Evaluation | None, listener: OnEvent) -> None:
    values = {"best_epoch": fitted.best_epoch, "val": metrics(fitted.validation), "test": metrics(test)}
    path = directory / LOG_FILE
    with RunLog(path, path.stat().st_size) as log:
        log.write("final", values)
    listener(Event("final", values))


def _plan(directory: Path, request: TrainRequest, assembly: Assembly) -> dict[str, Any]:
    tuned, sizes = assembly.tuned, assembly.source.describe()["sizes"]
    costs = tuned.costs()
    return {
        "directory": str(directory),
        "summary": tuned.summary(),
        "trained_parameters": costs.trained_parameters,
        "total_parameters": costs.total_parameters,
        "memory_forecast_bytes": assembly.exact.memory.as_dict(),
        "full_finetuning": assembly.full,
        "classes": len(assembly.source.class_names),
        "sizes": sizes,
        "epochs": request.training.epochs,
        "batch_size": request.training.batch_size,
        "lr": learning_rate(request.training, tuned.methods),
    }


def _listener(
    directory: Path, request: TrainRequest, on_event: OnEvent
) -> tuple[OnEvent, TensorBoard | None]:
    if not request.tensorboard:
        return on_event, None
    board = TensorBoard(directory / "tensorboard")

    def both(event: Event) -> None:
        board(event)
        on_event(event)

    return both, board


def _check_same_data(directory: Path, assembly: Assembly) -> None:
    path = directory / files.SPLIT_FILE
    if not path.is_file():
        raise RunError(f"{path} is missing: the run was stopped before it began; start it anew.")
    then, now = files.read_json(path), assembly.source.describe()
    for key in ("class_names", "sizes", "digests"):
        if then.get(key) != now[key]:
            raise RunError(
                f"The data have changed since the run in '{directory}' was started ({key} differ); "
                "restore them, or start another run."
            )


def _write_report(directory: Path) -> None:
    from vitune.report import write_report  # beside this package, and needed at the very end only

    if not (directory / files.REPORT_FILE).is_file():
        write_report([directory], directory / files.REPORT_FILE)


def _result(status: Status, directory: Path, request: TrainRequest, result: dict[str, Any]) -> RunResult:
    run, data = shlex.quote(str(directory)), shlex.quote(str(request.data.path))
    if status == "interrupted":
        return RunResult(status, directory, result, (f"vitune train --resume {run}",))
    commands = [f"vitune evaluate {run} {data}", f"vitune predict {run} IMAGE"]
    if all(method.merges for method in parse(request.method)):
        commands.append(f"vitune merge {run} -o FILE")
    return RunResult(status, directory, result, tuple(commands))

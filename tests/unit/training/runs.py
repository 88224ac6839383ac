"""Runs that are killed, starved of disk space or made parallel: `python runs.py FOLDER`.

One process imports torch once and forks for every run. Prints a JSON report.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from small import small_config, small_data, small_tuned, without_clock

import vitune
import vitune.training.checkpoint as checkpoint_module
from vitune.errors import RunError
from vitune.training import Event, fit, load_checkpoint

FORK = multiprocessing.get_context("fork")
CONFIG = small_config(epochs=3, mixup=0.8, cutmix=0.5, ema=0.9, workers=2, checkpoint_steps=2, clip_norm=1.0)
FILE_LIMIT = 24 * 1024  # bytes: more than the log, less than the tensors of a checkpoint


def run(
    directory: Path, on_event: Callable[[Event], None] = lambda event: None, resume: bool = False
) -> None:
    tuned = small_tuned(vitune.Full(), drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.1)
    directory.mkdir(exist_ok=True)
    fit(tuned, small_data(augment=True), CONFIG, directory=directory, resume=resume, on_event=on_event)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(kind: str, step: int) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.kind == kind and event.values["step"] == step:
            die()

    return on_event


def run_and_die_inside_a_save(directory: Path) -> None:
    flush_file = checkpoint_module.flush_file
    calls = []

    def flush_and_count(path: Path) -> None:
        flush_file(path)
        calls.append(path)
        if len(calls) == 5:  # two files a checkpoint: the third one has its tensors, but no state
            die()

    checkpoint_module.flush_file = flush_and_count
    run(directory)


def run_on_a_full_disk(directory: Path) -> None:
    def on_event(event: Event) -> None:
        if event.kind == "checkpoint":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, resource.RLIM_INFINITY))

    try:
        run(directory, on_event)
    except RunError as error:
        (directory / "error.txt").write_text(str(error))


def run_and_press_ctrl_c(directory: Path) -> None:
    os.setsid()  # as a terminal does, the signal goes to a whole group: to the data workers, too

    def on_event(event: Event) -> None:
        if event.kind == "progress" and event.values["step"] == 5:
            os.killpg(os.getpgrp(), signal.SIGINT)

    run(directory, on_event)


def in_process(function: Callable[..., None], *arguments: Any) -> int:
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def describe(directory: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(directory / "checkpoint")
    assert checkpoint is not None
    state = json.loads(json.dumps(checkpoint.state))
    state["progress"]["history"] = [without_clock(line) for line in state["progress"]["history"]]
    del state["log_offset"]  # clock fields have different lengths
    log = [without_clock(json.loads(line)) for line in (directory / "log.jsonl").read_text().splitlines()]
    tensors = {name: tensor.numpy().tobytes().hex() for name, tensor in checkpoint.tensors.items()}
    return {"step": checkpoint.step, "tensors": tensors, "state": state, "log": log}


def interrupted(directory: Path, function: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    """A run that ends badly, and what it becomes when resumed."""
    code = in_process(function, directory, *arguments)
    checkpoint = load_checkpoint(directory / "checkpoint")
    found = {
        "exit_code": code,
        "step": 0 if checkpoint is None else checkpoint.step,
        "temporary": [path.name for path in (directory / "checkpoint").glob(".tmp-*")],
        "error": (directory / "error.txt").read_text() if (directory / "error.txt").exists() else None,
    }
    assert in_process(run, directory, lambda event: None, True) == 0
    return {**found, "end": describe(directory)}


class TwoPasses(vitune.Policy):
    """The images, then their mirror images at half the weight."""

    passes = 2

    def losses(self, forward: Any, images: Any, targets: Any, criterion: Any) -> Iterator[Any]:
        yield criterion(forward(images), targets)
        yield 0.5 * criterion(forward(images.flip(-1)), targets)


def rank(directory: Path, rank: int, world: int, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in {**names, "MASTER_PORT": port}.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    run_parallel(directory)


def run_parallel(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    config = small_config(epochs=2, mixup=0.8, label_smoothing=0.1, batch_size=8, accumulate=2)
    tuned = small_tuned()
    if directory.parent.name == "passes":
        tuned.policies = (TwoPasses(),)
    fit(tuned, small_data(19, 7), config, directory=directory)


def parallel(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    assert in_process(run_parallel, folder / "alone") == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORK.Process(target=rank, args=(folder / "pair", i, 2, port)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    return {"exit_codes": codes, "alone": numbers(folder / "alone"), "pair": numbers(folder / "pair")}


def numbers(directory: Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(directory / "checkpoint")
    assert checkpoint is not None
    tensors = {name: tensor.flatten().tolist() for name, tensor in checkpoint.tensors.items()}
    log = [without_clock(json.loads(line)) for line in (directory / "log.jsonl").read_text().splitlines()]
    return {"tensors": tensors, "log": log}


def main(folder: Path) -> None:
    assert in_process(run, folder / "whole") == 0
    report = {
        "whole": describe(folder / "whole"),
        "in_an_epoch": interrupted(folder / "step", run, die_at("progress", 5)),
        "after_an_epoch": interrupted(folder / "epoch", run, die_at("epoch", 3)),
        "inside_a_save": interrupted(folder / "save", run_and_die_inside_a_save),
        "ctrl_c": interrupted(folder / "ctrl_c", run_and_press_ctrl_c),
        "full_disk": interrupted(folder / "full", run_on_a_full_disk),
        "parallel": parallel(folder / "parallel"),
        "parallel_passes": parallel(folder / "passes"),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Train the modules of a method on a large labelled set, and leave them as the start of other runs.

The first phase of PVP (arXiv:2304.13639): an ordinary run whose modules are written to a file without the head.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from vitune.adapters import save_modules_of_adapter
from vitune.adapters.modules import require_host
from vitune.data import Source
from vitune.errors import ConfigError
from vitune.methods import parse
from vitune.tasks.request import TrainRequest
from vitune.tasks.run_directory import read_config
from vitune.tasks.train import RunResult, resume, train
from vitune.training.events import OnEvent, ignore

MODULES_FILE = "modules.safetensors"


@dataclass(frozen=True)
class ModulesResult:
    """How pre-training of modules ended.

    Attributes:
        run: The run.
        path: The file of modules; None if the run was interrupted.
        accuracy: Top-1 of the pre-training task, 0 to 1: on validation images, or on test images where there are none;
            None if neither was looked at.
        next_commands: Commands to try next.
    """

    run: RunResult
    path: Path | None
    accuracy: float | None
    next_commands: tuple[str, ...]


def pretrain_modules(
    request: TrainRequest, *, on_event: OnEvent = ignore, source: Source | None = None
) -> ModulesResult:
    """Train, and leave a run directory with the modules in `modules.safetensors`.

    Args:
        request: What decides the run; its method is one of `vitune.adapters.modules.HOSTS`.
        on_event: Is told what happens.
        source: Its data, where the caller opened them already.

    Raises:
        ConfigError: If there is more than one method.
        AdapterError: If the modules of the method cannot be carried over.
        VituneError: As `vitune.tasks.train.train`.
    """
    methods = parse(request.method)
    if len(methods) != 1:
        raise ConfigError(
            f"modules are pre-trained for one method at a time, not for '{request.method}'; give one."
        )
    require_host(methods[0])
    return _written(train(request, on_event=on_event, source=source))


def resume_modules(directory: Path, *, on_event: OnEvent = ignore) -> ModulesResult:
    """Go on with a run that was interrupted; of a finished one the modules are written again.

    Args:
        directory: The run directory; that of an ordinary run of one method does as well.
        on_event: Is told what happens.

    Raises:
        VituneError: As `vitune.tasks.train.resume` and `pretrain_modules`.
    """
    return _written(resume(directory, on_event=on_event))


def _written(run: RunResult) -> ModulesResult:
    directory = run.directory
    if run.status == "interrupted":
        again = f"vitune pretrain-modules --resume {shlex.quote(str(directory))}"
        return ModulesResult(run, None, None, (again,))
    request = read_config(directory)
    found = run.result["metrics"]
    measured = found["val"] or found["test"]
    accuracy = None if measured is None else measured["accuracy"]
    data = request.data.path.resolve().name
    path = save_modules_of_adapter(directory, directory / MODULES_FILE, data=data, accuracy=accuracy)
    method, file = shlex.quote(request.method), shlex.quote(str(path))
    command = f"vitune train DATA --method {method} --init-modules {file}"
    if request.model.name is not None:
        command += f" --model {shlex.quote(request.model.name)}"
    if request.model.weights is not None:
        command += f" --weights {shlex.quote(str(request.model.weights))}"
    return ModulesResult(run, path, accuracy, (command,))

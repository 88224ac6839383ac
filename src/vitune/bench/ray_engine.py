"""Trials on a Ray cluster: each is a task of its own, in the same folder and under the same claims as everywhere.

Ray decides where a trial runs and how many run at once. What a trial is, whether it is still to be run, and what came
of it stands in the shared folder alone: so local processes may help, and either engine goes on where the other stopped.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vitune._extras import require
from vitune.bench.sealed import TrialData
from vitune.bench.train_trial import OnTrialEvent
from vitune.bench.trial import Trial
from vitune.bench.trials import StillRunning, TrialOutcome, TrialRunner
from vitune.errors import ConfigError, RunError
from vitune.measure.machine import versions
from vitune.training.events import Event

PURPOSE = "the engine 'ray'"
_NODE_SECONDS = 300.0


class PortableTrials(Protocol):
    """How trials of a kind are run, here or by another process; `vitune.bench.ray_worker.KINDS` has them."""

    def run(self, trial: Trial, folder: Path, data: TrialData, /) -> Mapping[str, Any]:
        """Run a trial in its folder; gives what its result is to hold."""
        ...

    def open_data(self, trial: Trial, /) -> TrialData:
        """Open the data of a trial."""
        ...

    def portable(self) -> PortableTrials:
        """The same with paths that hold in any folder, and without a listener."""
        ...

    def as_order(self) -> dict[str, Any]:
        """All of it as JSON values, for another process."""
        ...

    def needed_paths(self) -> list[Path]:
        """What every process must find on its disk."""
        ...


class RayRunner(TrialRunner):
    """Runs trials on the Ray cluster that this process is, or can be, connected to.

    A trial gets a processor for itself and one for each process that reads its images, and a GPU if the cluster has
    some and the trials may use them.

    Args:
        root: The folder of the trials; every node must see it under the same path.
        trials: How a trial is run; its data and weights must be there on every node.
        device: The device that the trials are told to use.
        workers: Processes that read the images of a trial.
        poll_seconds: How often to look for outcomes.
        on_event: Is told "submitted" of every trial that Ray is given.
        on_outcome: Is told of every trial, as soon as its outcome is seen.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster.
        RunError: If a node does not see the folder or the data, or has another version of this package.
    """

    def __init__(
        self,
        root: Path,
        trials: PortableTrials,
        *,
        device: str,
        workers: int,
        poll_seconds: float,
        on_event: OnTrialEvent,
        on_outcome: Callable[[TrialOutcome], None] | None = None,
    ) -> None:
        root, trials = root.resolve(), trials.portable()
        super().__init__(root, trials.run, trials.open_data, poll_seconds=poll_seconds, on_outcome=on_outcome)
        self._trials, self._on_event = trials, on_event
        self._ray = connected()
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        _check_nodes(self._ray, nodes, root, trials.needed_paths())
        largest = max(node["Resources"]["CPU"] for node in nodes)
        gpu = device in ("auto", "cuda") and self._ray.cluster_resources().get("GPU", 0) > 0
        resources = {"num_cpus": min(1 + workers, largest), "num_gpus": int(gpu)}
        self._task = self._ray.remote(**resources)(_task())

    def finish(
        self, trials: Iterable[Trial], *, retry_failed: bool = False, wait: bool = True
    ) -> list[TrialOutcome]:
        """As `TrialRunner.finish`, with the trials run by the cluster.

        Raises:
            RunError: If the folder of a trial holds something else, or a worker cannot work.
            StillRunning: If all that is left is being run by others, and `wait` is off.
            KeyboardInterrupt: If Ctrl-C ended it; the trials in flight are stopped and stay open.
        """
        wanted = list(dict.fromkeys(trials))
        retry = self.to_retry(wanted) if retry_failed else {trial: set() for trial in wanted}
        pending, jobs = self._pending(wanted, retry), {}
        try:
            while pending:
                for trial in (trial for trial in pending if trial not in jobs.values()):
                    jobs[self._task.remote(self._order(trial, retry[trial]))] = trial
                    self._on_event(trial, Event("submitted"))
                ready, _ = self._ray.wait(list(jobs), timeout=self._poll_seconds)
                worked = [self._answer(reference, jobs.pop(reference)) for reference in ready]
                pending = self._pending(pending, retry)
                if pending and worked and not any(worked):  # other processes have them
                    if not wait and not jobs:
                        raise StillRunning
                    time.sleep(self._poll_seconds)
        finally:
            for reference in jobs:
                self._ray.cancel(reference)
        outcomes = (self.outcome(trial) for trial in wanted)
        return [outcome for outcome in outcomes if outcome is not None]

    def _order(self, trial: Trial, retry: set[int]) -> dict[str, Any]:
        return {
            **self._trials.as_order(),
            "root": str(self.root),
            "trial": trial.as_dict(),
            "retry": list(retry),
        }

    def _answer(self, reference: Any, trial: Trial) -> bool:
        """Whether the worker ran the trial; what kept it from working is an error."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise RunError(
                f"the Ray worker of the trial {trial.id} died, and so did those that took its place: {first} "
                "The trial stays open: give the command again, with more memory or fewer trials at once."
            ) from None
        if "refused" in answer:
            raise RunError(answer["refused"])
        if "failed" in answer:
            raise RunError(
                f"a Ray worker could not run the trial {trial.id}: {answer['failed']}; "
                "mend it on that node and give the command again."
            )
        return answer["worked"]


def _task() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What a worker does with an order: leave it to `vitune.bench.ray_worker`.

    It is made here so that Ray sends the function itself, and the worker imports nothing.
    """

    def run(order: dict[str, Any]) -> dict[str, Any]:
        import json
        import signal
        import subprocess
        import sys

        command, pipe = [sys.executable, "-m", "vitune.bench.ray_worker"], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        try:
            out, err = process.communicate(json.dumps(order))
        except KeyboardInterrupt:  # the trial stops as on Ctrl-C, and stays open to others
            process.send_signal(signal.SIGINT)
            process.wait(30)
            raise
        finally:
            process.kill()
        if process.returncode:
            said = [line for line in err.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
            return {"failed": said[-1].strip()}
        return json.loads(out.splitlines()[-1])

    return run


def connected() -> Any:
    """Ray, connected to a cluster: the one that this process uses already, else the one that runs.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster.
    """
    ray = require("ray", "ray", PURPOSE)
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError):
            raise ConfigError(
                f"{PURPOSE} found no running Ray cluster; start one with 'ray start --head', or set RAY_ADDRESS."
            ) from None
    return ray


def _check_nodes(ray: Any, nodes: list[dict[str, Any]], root: Path, needed: list[Path]) -> None:
    """Every node must see the folder, this very one, and the data."""
    if not nodes:
        raise ConfigError(
            f"{PURPOSE}: the Ray cluster has no node with processors; add one with 'ray start'."
        )
    token = root / f".seen-{uuid.uuid4().hex}"
    token.touch()
    try:
        own = versions()["vitune"]
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        look = ray.remote(num_cpus=0, max_retries=0)(_task())
        order = {"look": [str(path) for path in (token, *needed)]}
        asked = [
            look.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(order)
            for node in nodes
        ]
        for node, reference in zip(nodes, asked, strict=True):
            where = f"the Ray node {node['NodeManagerAddress']}"
            try:
                found = ray.get(reference, timeout=_NODE_SECONDS)
            except ray.exceptions.RayError as error:
                said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                raise RunError(
                    f"{where} does not answer ({said[-1].strip()}); look at 'ray status'."
                ) from None
            if "failed" in found:
                raise RunError(f"{where} cannot run vitune ({found['failed']}); install it there.")
            missing, version = found["missing"], found["version"]
            if version != own:
                raise RunError(f"{where} has vitune {version} and this machine has {own}; install the same.")
            if missing:
                path = root if missing[0] == str(token) else missing[0]
                raise RunError(
                    f"{where} does not see '{path}'; put it on a folder that all nodes share, under one path."
                )
    finally:
        token.unlink(missing_ok=True)

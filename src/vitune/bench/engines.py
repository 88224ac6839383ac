"""Where trials run: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitune.bench.compare_request import CompareRequest
from vitune.bench.ray_engine import PortableTrials, RayRunner
from vitune.bench.train_trial import OnTrialEvent
from vitune.bench.trials import TrialOutcome, TrialRunner
from vitune.training.config import TrainConfig


def make_runner(
    request: CompareRequest,
    root: Path,
    trials: PortableTrials,
    *,
    on_event: OnTrialEvent,
    on_outcome: Callable[[TrialOutcome], None] | None,
    poll_seconds: float,
) -> TrialRunner:
    """The runner of the engine that a comparison asks for.

    Args:
        request: What is asked for.
        root: Folder of the trials.
        trials: How a trial is run.
        on_event: Is told "submitted" of every trial that a cluster is given; `trials` has a listener for the rest.
        on_outcome: Is told of every trial, as soon as its outcome is seen.
        poll_seconds: How often to look for outcomes.

    Raises:
        ConfigError: If the engine needs what is not there.
        RunError: If a node of the cluster cannot take part.
    """
    if request.engine == "local":
        return TrialRunner(
            root, trials.run, trials.open_data, poll_seconds=poll_seconds, on_outcome=on_outcome
        )
    root.mkdir(parents=True, exist_ok=True)  # every node is asked whether it sees it
    return RayRunner(
        root,
        trials,
        device=TrainConfig.from_dict(request.training).device,
        workers=request.workers,
        poll_seconds=poll_seconds,
        on_event=on_event,
        on_outcome=on_outcome,
    )

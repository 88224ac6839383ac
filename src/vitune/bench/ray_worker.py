"""A trial of a Ray cluster in a process of its own: `python -m vitune.bench.ray_worker`, an order on standard input.

Ray keeps a worker for many tasks; a process beside it ends with its trial, gives all memory back, and takes no worker
with it when it dies. The order is a JSON object; so is the answer, the last line of the output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vitune.bench.evaluate_trial import EvaluateTrial
from vitune.bench.train_trial import TrainTrial
from vitune.bench.trial import Trial
from vitune.bench.trials import TrialRunner
from vitune.errors import VituneError
from vitune.measure.machine import versions

KINDS = {kind.KIND: kind for kind in (TrainTrial, EvaluateTrial)}


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do what an order asks.

    Args:
        order: `look`, a list of paths: which are missing, and the version of this package. Else `root`, `trial` and
            `retry`, with the `kind` and what trials of that kind tell by `as_order`: run the trial if it is free.

    Returns:
        `missing` and `version`, or `worked`; `refused`, a sentence, where a user is at fault.
    """
    if "look" in order:
        missing = [path for path in order["look"] if not Path(path).exists()]
        return {"missing": missing, "version": versions()["vitune"]}
    trials = KINDS[order["kind"]].from_order(order)
    runner = TrialRunner(order["root"], trials.run, trials.open_data)
    try:
        return {"worked": runner.work_on(Trial.from_dict(order["trial"]), set(order["retry"]))}
    except VituneError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))

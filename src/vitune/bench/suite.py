"""Running a suite: one comparison per task, each a folder below the suite's, and what they say together.

The same command goes on where it was stopped and may run in several processes over a shared folder: a process that has
nothing left to do in one task goes on to the next rather than wait for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitune.bench.compare import TRIALS, CompareResult, Plan, compare, make_plan
from vitune.bench.ray_engine import connected
from vitune.bench.suite_data import Located, check_complete, locate
from vitune.bench.suite_evaluations import Evaluated, evaluate_finals
from vitune.bench.suite_request import SuiteRequest
from vitune.bench.suite_summary import MeasuredRow, SuiteSummary, summarise_suite
from vitune.bench.summary import final_scores
from vitune.bench.train_trial import OnTrialEvent
from vitune.bench.trials import StillRunning, TrialOutcome
from vitune.errors import DataError, RunError, VituneError
from vitune.suites import EvaluationSet, Task

DATA = "data"
SUITE_FILE = "suite.json"


@dataclass(frozen=True)
class TaskPlan:
    """What is run for one task.

    Attributes:
        task: The task.
        plan: Its comparison.
        sets: Further test sets and where their images are.
    """

    task: Task
    plan: Plan
    sets: tuple[tuple[EvaluationSet, Path], ...]


@dataclass(frozen=True)
class SuitePlan:
    """What a suite will run.

    Attributes:
        request: What was asked for.
        tasks: The tasks in order.
        baseline: The method that the others are compared with.
    """

    request: SuiteRequest
    tasks: tuple[TaskPlan, ...]
    baseline: str

    @property
    def trials(self) -> int:
        """How many trials there are, with the tests of every final run on further sets."""
        return sum(
            task.plan.trials + len(task.sets) * len(task.plan.cases) * len(task.plan.protocol.seeds)
            for task in self.tasks
        )


@dataclass(frozen=True)
class TaskResult:
    """What was found on one task.

    Attributes:
        task: The task.
        comparison: Of the methods.
        evaluated: What the same runs did on further test sets.
    """

    task: Task
    comparison: CompareResult
    evaluated: tuple[Evaluated, ...]


@dataclass(frozen=True)
class SuiteResult:
    """What a suite found.

    Attributes:
        plan: What was run.
        tasks: One per task.
        summary: What they say together.
    """

    plan: SuitePlan
    tasks: tuple[TaskResult, ...]
    summary: SuiteSummary


def check_suite(request: SuiteRequest) -> list[Located]:
    """Find the data of every chosen task and further test set, without changing anything.

    Args:
        request: What is to be run.

    Raises:
        DataError: If the root does not exist.
    """
    return _locate(request, prepare=False)


def plan_suite(request: SuiteRequest) -> SuitePlan:
    """Find out what is to be run; unpacks and makes data where the suite says how, below the results' folder.

    Args:
        request: What is to be run.

    Raises:
        DataError: If data are missing or cannot be used.
        ConfigError: If settings do not fit together, or there is no cluster where one is asked for.
        RunError: If the folder of the results holds something else.
    """
    check_suite_folder(request)
    if request.engine == "ray":
        connected()  # before anything is unpacked
    check_complete(_locate(request, prepare=False), request.suite.name)
    found = {located.name: located for located in _locate(request, prepare=True)}
    check_complete(list(found.values()), request.suite.name)  # also what has just been unpacked
    tasks = []
    for task in request.chosen_tasks():
        path = found[task.name].path
        assert path is not None  # else it would not be complete
        sets = tuple((of, place) for of in task.evaluations if (place := found[of.name].path) is not None)
        try:
            plan = make_plan(request.comparison(task, path))
        except VituneError as error:
            text = str(error)
            raise type(error)(text if text.startswith("task ") else f"task '{task.name}': {text}") from None
        tasks.append(TaskPlan(task, plan, sets))
    baseline = tasks[0].plan.request.baseline
    assert baseline is not None  # settled when the request was made
    return SuitePlan(request, tuple(tasks), baseline)


def run_suite(
    plan: SuitePlan,
    *,
    on_event: OnTrialEvent = lambda trial, event: None,
    on_outcome: Callable[[Task, TrialOutcome], None] = lambda task, outcome: None,
    on_task: Callable[[TaskResult], None] = lambda result: None,
    poll_seconds: float = 1.0,
) -> SuiteResult:
    """Run what nobody has run yet of a suite, and put the results together.

    Args:
        plan: From `plan_suite`.
        on_event: Is told what happens in the trials that this process runs.
        on_outcome: Is told of every trial, once, as soon as it is seen to have ended, whoever ran it.
        on_task: Is told of every task that is complete.
        poll_seconds: How often to look whether other processes have finished what this one waits for.

    Raises:
        RunError: If a folder is taken by something else, or every method failed on every task.
        KeyboardInterrupt: If Ctrl-C ended it; the same command goes on.
    """
    results: dict[str, TaskResult] = {}
    told: set[tuple[str, str]] = set()
    waiting = list(plan.tasks)
    # What has just failed again must not be tried a third time when its task is looked at again.
    wait = plan.request.retry_failed
    while waiting:
        left = []
        for task in waiting:

            def tell(outcome: TrialOutcome, task: TaskPlan = task) -> None:
                if (key := (task.task.name, outcome.trial.id)) not in told:
                    told.add(key)
                    on_outcome(task.task, outcome)

            try:
                found = compare(
                    task.plan,
                    on_event=on_event,
                    on_outcome=tell,
                    poll_seconds=poll_seconds,
                    wait=wait,
                    keep_failed=True,
                )
                evaluated = evaluate_finals(
                    found,
                    task.task.name,
                    task.sets,
                    on_event=on_event,
                    on_outcome=tell,
                    poll_seconds=poll_seconds,
                    wait=wait,
                )
            except StillRunning:
                left.append(task)
                continue
            results[task.task.name] = TaskResult(task.task, found, evaluated)
            on_task(results[task.task.name])
        if len(left) == len(waiting):
            time.sleep(poll_seconds)
        waiting = left
    ordered = tuple(results[task.task.name] for task in plan.tasks)
    _check_any(ordered)
    return SuiteResult(plan, ordered, _summary(plan, ordered))


def check_suite_folder(request: SuiteRequest) -> None:
    """Refuse a folder that holds something other than results of a suite or comparisons of its tasks.

    Args:
        request: What is to be run.

    Raises:
        RunError: If it is a file, or holds other things.
    """
    out = request.out
    if out.exists() and not out.is_dir():
        raise RunError(f"the output '{out}' is a file; choose another folder with --out.")
    names = {task.name for task in request.suite.tasks}
    if (
        out.is_dir()
        and any(path for path in out.iterdir() if path.name != DATA)
        and not (out / SUITE_FILE).is_file()
        and not any((out / name / TRIALS).is_dir() for name in names)
    ):
        raise RunError(
            f"the output folder '{out}' holds something else than results of the suite '{request.suite.name}'; "
            "choose another with --out."
        )


def _locate(request: SuiteRequest, *, prepare: bool) -> list[Located]:
    tasks = request.chosen_tasks()
    # A suite that makes its own data needs no root.
    if not request.root.is_dir() and not all(task.make for task in tasks):
        raise DataError(f"there is no folder '{request.root}'; give the one that holds the suite's data.")
    wanted = [entry for task in tasks for entry in (task, *task.evaluations)]
    return [locate(entry, request.root, request.out / DATA, prepare=prepare) for entry in wanted]


def _check_any(results: tuple[TaskResult, ...]) -> None:
    cases = [case for result in results for case in result.comparison.cases]
    if any(outcome.result is not None for case in cases for outcome in case.final):
        return
    first = next(o for case in cases for o in (*case.selection, *case.final) if o.error)
    message = (first.error or {}).get("message", "")
    raise RunError(
        f"every method failed on every task; the first said: {message} (see '{first.path}'); "
        "when that is mended, give --retry-failed."
    )


def _summary(plan: SuitePlan, results: tuple[TaskResult, ...]) -> SuiteSummary:
    rows: list[MeasuredRow] = []
    methods = tuple(plan.request.methods)
    costs: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
    for result in results:
        task = result.task
        scores = {case.case.methods: final_scores(case) for case in result.comparison.cases}
        rows.append(MeasuredRow(task.name, task.group, task.name, scores, {}))
        rows += [evaluated.row for evaluated in result.evaluated]
        for summary in result.comparison.methods:
            if summary.costs:
                costs[summary.result.case.methods].append(dict(summary.costs))
    return summarise_suite(methods, plan.baseline, rows, costs)

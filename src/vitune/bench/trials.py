"""Running trials, each exactly once, from as many processes as share the folder.

```
root/<trial id>/trial.json          what is tried
root/<trial id>/attempts/<n>/       owner.json of each attempt; error.json if it failed
root/<trial id>/work/               the trial function's own folder; what it leaves survives a crash
root/<trial id>/result.json         the one result
```
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.bench.claim import Claim, attempt_state, latest_attempt, try_claim
from vitune.bench.sealed import TrialData, once, sealed
from vitune.bench.trial import Trial
from vitune.durable import replace_file
from vitune.errors import ConfigError, RunError
from vitune.measure.machine import machine, versions

FORMAT = 1
_OWN_KEYS = {"format", "trial", "protocol", "seconds", "attempts", "versions", "machine"}


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial: a result or an error.

    Attributes:
        trial: What was tried.
        path: The JSON file that this was read from.
        result: The result file's content; None if the trial failed.
        error: The error file's content (`type`, `message`, `traceback`, `seconds`); None if it finished.
    """

    trial: Trial
    path: Path
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class StillRunning(Exception):
    """What is left to run is being run by other processes, and the caller did not want to wait for them."""


class TrialRunner:
    """Runs trials in a folder.

    Args:
        root: The folder, shared by all processes that help.
        run: The function under trial. Gets the trial, a folder of its own and the data; returns the result,
            a JSON object with at least `metrics`: {"val": {...} or None, "test": {...} or None}. Called
            again with the same folder after a crash, it may continue from what it left there.
        open_data: Opens the source of a trial; the function under trial sees it sealed or once-only.
        stale_minutes: After how long without a sign of life the trial of another machine is taken over.
            Keep it well above the longest pause of a machine that may wake up again: a process that is only
            asleep goes on working in the same folder, though its result is dropped.
        heartbeat_seconds: How often this process gives its sign of life.
        poll_seconds: How often to look whether others have finished what this process waits for.
        on_outcome: Is told of every trial that `finish` was asked for, as soon as its outcome is seen, whoever ran it.
    """

    def __init__(
        self,
        root: str | Path,
        run: Callable[[Trial, Path, TrialData], Mapping[str, Any]],
        open_data: Callable[[Trial], TrialData],
        *,
        stale_minutes: float = 10.0,
        heartbeat_seconds: float = 20.0,
        poll_seconds: float = 1.0,
        on_outcome: Callable[[TrialOutcome], None] | None = None,
    ) -> None:
        if heartbeat_seconds <= 0 or stale_minutes * 60 < 3 * heartbeat_seconds:
            raise ConfigError(
                f"TrialRunner: {stale_minutes} minutes of silence are too few for a sign of life every "
                f"{heartbeat_seconds} seconds; allow for at least three."
            )
        self.root = Path(root)
        self._run = run
        self._open_data = open_data
        self._stale_seconds = stale_minutes * 60
        self._heartbeat_seconds = heartbeat_seconds
        self._poll_seconds = poll_seconds
        self._on_outcome = on_outcome

    def folder(self, trial: Trial) -> Path:
        """Where a trial lives."""
        return self.root / trial.id

    def finish(
        self, trials: Iterable[Trial], *, retry_failed: bool = False, wait: bool = True
    ) -> list[TrialOutcome]:
        """Run what nobody has run or runs, wait for the others, and return all outcomes in the given order.

        Args:
            trials: What to run; one that is named twice runs once.
            retry_failed: Try those again, once, that had failed before this call.
            wait: Whether to wait for trials that other processes run.

        Raises:
            RunError: If the folder of a trial holds something else.
            StillRunning: If all that is left is being run by others, and `wait` is off.
        """
        wanted = list(dict.fromkeys(trials))
        retry = self.to_retry(wanted) if retry_failed else {trial: set() for trial in wanted}
        pending = self._pending(wanted, retry)
        while pending:
            worked = False
            for trial in pending:
                if self.work_on(trial, retry[trial]):
                    worked = True
                    pending = self._pending(pending, retry)
            pending = self._pending(pending, retry)
            if pending and not worked:
                if not wait:
                    raise StillRunning
                time.sleep(self._poll_seconds)
        outcomes = (self.outcome(trial) for trial in wanted)
        return [outcome for outcome in outcomes if outcome is not None]

    def _pending(self, trials: list[Trial], retry: Mapping[Trial, Iterable[int]]) -> list[Trial]:
        """Those that are neither finished nor failed; tells of the others."""
        left = []
        for trial in trials:
            outcome = self.outcome(trial, retry[trial])
            if outcome is None:
                left.append(trial)
            elif self._on_outcome is not None:
                self._on_outcome(outcome)
        return left

    def outcome(self, trial: Trial, retry: Iterable[int] = ()) -> TrialOutcome | None:
        """What became of a trial; None as long as it is neither finished nor failed.

        Args:
            trial: Which one.
            retry: Numbers of failed attempts that do not count, since they will be followed by another.

        Raises:
            RunError: If the result cannot be read, or belongs to another trial.
        """
        folder = self.folder(trial)
        if (folder / "result.json").exists():
            result = _read_json(folder / "result.json")
            if result.get("trial") != trial.as_dict():
                raise RunError(
                    f"'{folder / 'result.json'}' is not the result of this trial; move the folder away."
                )
            return TrialOutcome(trial, folder / "result.json", result, None)
        latest = latest_attempt(folder / "attempts")
        if latest is None or latest in retry:
            return None
        error_file = folder / "attempts" / str(latest) / "error.json"
        if attempt_state(error_file.parent, self._stale_seconds) != "failed":
            return None
        return TrialOutcome(trial, error_file, None, _read_json(error_file))

    def to_retry(self, trials: Iterable[Trial]) -> dict[Trial, set[int]]:
        """Numbers of the attempts so far: those that may be followed by another if they failed.

        Args:
            trials: Which trials.
        """
        latest = {trial: latest_attempt(self.folder(trial) / "attempts") for trial in trials}
        return {trial: set() if number is None else {number} for trial, number in latest.items()}

    def work_on(self, trial: Trial, retry: set[int]) -> bool:
        """Run a trial if it is free.

        Args:
            trial: Which one.
            retry: Numbers of failed attempts that may be followed by another.

        Returns:
            Whether this process did.

        Raises:
            RunError: If the folder holds something else.
        """
        folder = self.folder(trial)
        if self.outcome(trial, retry) is not None:
            return False
        claim = try_claim(
            folder / "attempts",
            stale_seconds=self._stale_seconds,
            heartbeat_seconds=self._heartbeat_seconds,
            retry=retry,
        )
        if claim is None:
            return False
        try:
            # Its last owner may have finished between the look at the result and the claim.
            if (folder / "result.json").exists():
                return False
            self._attempt(trial, claim)
            return True
        finally:
            # Also after Ctrl-C or on a full disk: the trial is not to blame and stays open to all.
            claim.release()

    def _attempt(self, trial: Trial, claim: Claim) -> None:
        folder = self.folder(trial)
        _write_json(folder / "trial.json", trial.as_dict())
        (folder / "work").mkdir(exist_ok=True)
        start = time.perf_counter()
        try:
            guard = sealed if trial.stage == "select" else once
            told = self._run(trial, folder / "work", guard(self._open_data(trial)))
            _check_told(trial, told)
            result = {
                **told,
                "format": FORMAT,
                "trial": trial.as_dict(),
                "protocol": trial.protocol,
                "seconds": time.perf_counter() - start,
                "attempts": claim.number + 1,
                "versions": versions(),
                "machine": machine(),
            }
            json.dumps(result, allow_nan=False)
        except Exception as error:
            failure = {
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
                "seconds": time.perf_counter() - start,
            }
            _write_json(claim.folder / "error.json", failure)
            return
        # A process that others thought dead has lost its trial: theirs is the one result.
        if claim.is_current():
            _write_json(folder / "result.json", result)


def _check_told(trial: Trial, told: Mapping[str, Any]) -> None:
    metrics = told.get("metrics") if isinstance(told, Mapping) else None
    if not isinstance(metrics, Mapping):
        raise RunError(
            "The function under trial must return a mapping with 'metrics': {'val': ..., 'test': ...}."
        )
    if clash := sorted(_OWN_KEYS & told.keys()):
        raise RunError(
            f"The function under trial returned the keys {clash}, which the trial runner writes itself."
        )
    if trial.stage == "select" and metrics.get("test") is not None:
        raise RunError(
            "A trial that selects settings has returned test metrics; only final trials have them."
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"'{path}' is not JSON ({error}); remove it to run the trial again.") from None
    if not isinstance(content, dict):
        raise RunError(f"'{path}' holds no JSON object; remove it to run the trial again.")
    return content

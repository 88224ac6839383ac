from pathlib import Path

import pytest

from vitune.bench import TrialRunner

from .fakes import open_fake, run_fake


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialRunner:
    monkeypatch.setattr("vitune.bench.trials.machine", lambda: {"cpu": "none"})
    return TrialRunner(tmp_path / "trials", run_fake, open_fake, poll_seconds=0.01)

"""Distributed data parallel on two gloo processes: gradients equal those of one process on the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cases import FEW, SLOW

ROOT = Path(__file__).parents[2]
# HST's BatchNorms use the statistics of each process's part, as its reference does.
CASES = [(text, "plain") for text in FEW if not text.startswith("hst")]
CASES += [case for case in SLOW if case[1] == "hf"]


@pytest.fixture(scope="module")
def worst_difference(tmp_path_factory) -> dict[str, float]:
    """Largest relative difference of a gradient, by case."""
    out = tmp_path_factory.mktemp("ddp") / "result.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "tests.contract.data_parallel", str(out), json.dumps(CASES)]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **place}, stderr=subprocess.PIPE, text=True
            )
        )
    errors = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return json.loads(out.read_text())


@pytest.mark.parametrize(("text", "family"), CASES)
def test_gradients_are_those_of_one_process(text, family, worst_difference):
    assert worst_difference[f"{text} {family}"] < 1e-5

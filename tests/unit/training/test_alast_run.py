"""ALaST and the random suffix in the loop: resumed bit-equal, accumulated, averaged, in two processes, and logged."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import vitune
from vitune.methods import parse
from vitune.training import Event, fit, load_checkpoint

from .small import small_config, small_data, without_clock


def tuned_with(text: str) -> vitune.Tuned:
    from .small import small_model

    return vitune.apply(small_model(depth=4, patch_size=4), parse(text))


TEXTS = [
    "alast(k=2,budget_lr=20.0)",
    "lora(rank=2),alast(k=2,budget_rule=target_flops,budget_timing=previous)",
]
SUFFIX = "suffix(k=2,deepest=4)"


class Stop(Exception):
    pass


@pytest.mark.parametrize("text", [*TEXTS, SUFFIX])
def test_a_resumed_run_ends_bit_equal(text, tmp_path):
    config = small_config(epochs=2, checkpoint_steps=1, ema=0.9, accumulate=2, clip_norm=1.0)

    def stop_at_third(event: Event) -> None:
        if event.kind == "checkpoint" and event.values["step"] == 3:
            raise Stop

    ends = {}
    for name in ("whole", "stopped"):
        directory = tmp_path / name
        directory.mkdir()
        if name == "stopped":
            with pytest.raises(Stop):
                fit(tuned_with(text), small_data(), config, directory=directory, on_event=stop_at_third)
        fit(tuned_with(text), small_data(), config, directory=directory, resume=name == "stopped")
        checkpoint = load_checkpoint(directory / "checkpoint")
        assert checkpoint is not None
        log = [without_clock(json.loads(line)) for line in (directory / "log.jsonl").read_text().splitlines()]
        ends[name] = checkpoint.tensors, log
    (whole, log), (stopped, other_log) = ends["whole"], ends["stopped"]
    assert whole.keys() == stopped.keys()
    moves = any(name.startswith("policy/") and name.endswith("/budgets") for name in whole)
    assert moves == (text != SUFFIX)  # what the suffix draws is a function of the step
    for name, tensor in whole.items():
        assert torch.equal(tensor.nan_to_num(), stopped[name].nan_to_num()), name
    assert log == other_log
    lines = [line for line in log if line["event"] == "step"]
    assert lines
    if text == SUFFIX:
        assert len({line["suffix_blocks"] for line in lines}) > 1
        return
    for line in lines:
        assert len(line["alast_budgets"]) == len(line["alast_tokens"]) == 4
        assert len(line["alast_trained"]) == 2


def test_the_runs_learning_rate_and_seed_are_those_of_the_settings():
    tuned = tuned_with("alast")
    fit(tuned, small_data(), small_config(epochs=1, lr=3e-3, seed=5))
    assert tuned.policies[0].steering.rate == 3e-3
    assert tuned.policies[0]._run.seed == 5


def _process(rank: int, port: int, folder: str, text: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    tuned = tuned_with(text)
    seen: list[dict[str, Any]] = []
    policy = tuned.policies[-1]
    after_step = policy.after_step

    def noting() -> None:
        after_step()
        seen.append(policy.log())

    policy.after_step = noting
    fit(tuned, small_data(), small_config(epochs=2))
    state = {name: tensor.tolist() for name, tensor in tuned.state().items()}
    Path(folder, f"{rank}.json").write_text(json.dumps([seen, state]))


@pytest.mark.parametrize("text", [TEXTS[0].replace("20.0", "20.0,train_embeddings=false"), SUFFIX])
def test_two_processes_draw_the_same_blocks_and_have_the_same_budgets(text, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_process, args=(rank, port, str(tmp_path), text)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    (first, state), (second, other) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert first == second
    assert len({json.dumps(line) for line in first}) > 2
    assert state == other

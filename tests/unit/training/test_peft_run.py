"""Types of PEFT that do something beside their layers, in the training loop: stopped in the middle and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vitune
from vitune.methods import parse
from vitune.training import Event, fit, load_checkpoint

from .small import small_config, small_data, small_model, without_clock

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own configs

TEXTS = [
    "peft(type=ADALORA,init_r=4,target_r=1,lora_dropout=0.1)",
    "peft(r=2,kasa_config=gamma:0.01)",
    "peft(r=2,init_lora_weights=pissa),bitfit",
    "peft(r=2,monteclora_config=num_samples:3+sample_scaler:0.1+use_entropy:true)",
    "peft(type=FROD,sparse_rate=0.1)",
    "peft(type=ADAMSS,r=8,num_subspaces=3,use_asa=true,init_warmup=1,final_warmup=4,mask_interval=2,"
    "asa_target_subspaces=5)",
]


class Stop(Exception):
    pass


@pytest.mark.parametrize("text", TEXTS)
def test_a_resumed_run_ends_bit_equal(text, tmp_path: Path):
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
                fit(_tuned(text), small_data(), config, directory=directory, on_event=stop_at_third)
            if "ADALORA" in text:
                checkpoint = load_checkpoint(directory / "checkpoint")
                assert checkpoint is not None
                assert any(key.startswith("policy/0/exp_avg_ipt/") for key in checkpoint.tensors)
        fit(_tuned(text), small_data(), config, directory=directory, resume=name == "stopped")
        checkpoint = load_checkpoint(directory / "checkpoint")
        assert checkpoint is not None
        log = [without_clock(json.loads(line)) for line in (directory / "log.jsonl").read_text().splitlines()]
        ends[name] = checkpoint.tensors, log
    (whole, log), (stopped, other_log) = ends["whole"], ends["stopped"]
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())
    steps = [line for line in log if line.get("event") == "step"]
    others = [line for line in other_log if line.get("event") == "step"]
    assert steps == others
    assert len(steps) > 3
    if "ADALORA" in text:
        ranks = [line["ranks"] for line in steps if "ranks" in line]
        assert ranks[-1] < ranks[0]


def _tuned(text: str) -> vitune.Tuned:
    return vitune.apply(small_model(depth=4, patch_size=4), parse(text))

"""One epoch in Lightning's Trainer is one epoch of a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.interop import loops
from torch.nn import functional as F
from torch.utils.data import DataLoader

import vitune
from vitune.errors import TrainingError

lightning: Any = pytest.importorskip("lightning.pytorch")
from vitune.interop.lightning import VituneCallback, VituneMixin, fit_stages  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


def read(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["pixel_values"], batch["labels"]


class Bare(lightning.LightningModule):
    def __init__(self, tuned: vitune.Tuned) -> None:
        super().__init__()
        self.tuned, self.model = tuned, tuned.model

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = read(batch)
        return F.cross_entropy(self.tuned(images), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.tuned.parameters(), lr=loops.LR)


class Mixed(VituneMixin, lightning.LightningModule):
    def __init__(self, tuned: vitune.Tuned) -> None:
        super().__init__()
        self.tuned, self.model = tuned, tuned.model

    def read(self, batch: Any) -> Any:
        return read(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.tuned.parameters(), lr=loops.LR)


def trainer(**changes: Any) -> Any:
    values: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False}
    values |= {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return lightning.Trainer(**values | changes)


def loader(tuned: vitune.Tuned, batch: int = loops.BATCH) -> DataLoader[Any]:
    return DataLoader(loops.data_of(tuned), batch_size=batch)


@pytest.mark.parametrize("policy", [None, loops.OwnLoss, loops.TwoPasses])
def test_the_mixin_makes_every_loss(policy: Any) -> None:
    tuned, other = (loops.tuned("lora(rank=2)", "plain", policy and policy()) for _ in range(2))
    trainer().fit(Mixed(tuned), loader(tuned))
    loops.assert_same(tuned.state(), loops.plain_loop(other))


@pytest.mark.filterwarnings("ignore")  # of peft, about its own configs
def test_ranks_of_adalora_are_cut_as_in_a_plain_loop() -> None:
    pytest.importorskip("peft")
    tuned, other = (loops.tuned("peft(type=ADALORA,init_r=4,target_r=2)", "plain") for _ in range(2))
    trainer().fit(Mixed(tuned), loader(tuned))
    loops.assert_same(tuned.state(), loops.plain_loop(other))
    assert any((t == 0).any() and (t != 0).any() for name, t in tuned.state().items() if "lora_E" in name)


def test_passes_of_the_parts_of_a_batch() -> None:
    tuned, other = (loops.tuned("bitfit", "hf", loops.TwoPasses()) for _ in range(2))
    trainer(accumulate_grad_batches=2).fit(Mixed(tuned), loader(tuned, loops.BATCH // 2))
    loops.assert_same(tuned.state(), loops.plain_loop(other))


def test_a_published_method_with_passes_of_its_own() -> None:
    tuned = loops.tuned("dyt(bottleneck=2)")
    trainer().fit(Mixed(tuned), loader(tuned))
    assert set(tuned.policies[0].terms) == {"complete", "dynamic", "distillation", "rate"}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_callback_beside_a_module_as_it_is(accumulate: int) -> None:
    diary = loops.Diary(stages=2)
    tuned, other = loops.tuned("bitfit", "plain", diary), loops.tuned("bitfit", "plain", loops.Diary())
    callback = VituneCallback(tuned, read=read)
    made = trainer(callbacks=[callback], accumulate_grad_batches=accumulate)
    made.fit(Bare(tuned), loader(tuned, loops.BATCH // accumulate))
    assert diary.notes == loops.notes()
    assert callback.another_stage
    loops.assert_same(tuned.state(), loops.plain_loop(other))


def test_stages_have_trainers_of_their_own() -> None:
    diary = loops.Diary(stages=2)
    tuned, other = loops.tuned("bitfit", "plain", diary), loops.tuned("bitfit", "plain", loops.Diary(2))
    last = fit_stages(trainer, Mixed(tuned), loader(tuned))
    assert last.global_step == loops.STEPS
    assert diary.notes == loops.notes(stages=2)
    loops.assert_same(tuned.state(), loops.plain_loop(other, stages=2))


def test_a_resumed_run_gives_policies_their_state_back(tmp_path: Path) -> None:
    first = loops.tuned("lora(rank=2)", "plain", loops.Diary())
    made = trainer()
    made.fit(Mixed(first), loader(first))
    made.save_checkpoint(tmp_path / "one.ckpt")
    diary = loops.Diary(stages=5)
    again = loops.tuned("lora(rank=2)", "plain", diary)
    trainer(max_epochs=2).fit(
        Mixed(again), loader(again), ckpt_path=str(tmp_path / "one.ckpt"), weights_only=True
    )
    assert diary.seen == 7
    steps = [note for step in (3, 4, 5) for note in (f"step {step}", "backward", "stepped")]
    assert diary.notes == ["begin 6", *steps, "end"]
    other = loops.tuned("lora(rank=2)", "plain", loops.Diary(2))
    loops.assert_same(again.state(), loops.plain_loop(other, stages=2))


@pytest.mark.parametrize("policy", [loops.OwnLoss, loops.TwoPasses])
def test_the_callback_refuses_what_it_cannot_make(policy: Any) -> None:
    message = rf"{policy.__name__} has a loss or passes of its own, .*; use .*VituneMixin in your module"
    with pytest.raises(TrainingError, match=message):
        VituneCallback(loops.tuned("lora(rank=2)", "plain", policy()))


def test_what_does_not_fit() -> None:
    tuned = loops.tuned("bitfit", "plain", loops.Diary())
    with pytest.raises(
        TrainingError, match="a batch has the names pixel_values, labels; say by `read` which are"
    ):
        trainer(callbacks=[VituneCallback(tuned)]).fit(Bare(tuned), loader(tuned))

    class Growing(vitune.Policy):
        def prepare(self, batches: Any) -> None:
            head = tuned.anatomy.head[0]
            tuned.model.get_submodule(head).register_parameter("late", torch.nn.Parameter(torch.zeros(1)))

    tuned.policies = (Growing(),)
    with pytest.raises(TrainingError, match="changed what trains after the module made its optimizers"):
        trainer(callbacks=[VituneCallback(tuned, read=read)]).fit(Bare(tuned), loader(tuned))


def test_several_passes_take_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = loops.tuned("bitfit", "plain", loops.TwoPasses())
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    module = Mixed(tuned)
    module.trainer = trainer()
    with pytest.raises(
        TrainingError, match=r"several passes in a step, .*; use one process, or vitune's own"
    ):
        module.training_step(next(iter(loader(tuned))), 0)

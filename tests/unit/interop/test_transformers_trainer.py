"""One epoch in the Trainer of transformers is one epoch of a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.interop import loops
from torch.nn import functional as F

import vitune
from vitune.errors import RunError, TrainingError
from vitune.training import moments

transformers: Any = pytest.importorskip("transformers")
from vitune.interop.transformers_trainer import STATE, VituneCallback, VituneTrainer  # noqa: E402


def arguments(folder: Path, **changes: Any) -> Any:
    values = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": loops.BATCH,
        "per_device_eval_batch_size": loops.BATCH,
        "learning_rate": loops.LR,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **changes,
    }
    return transformers.TrainingArguments(**values)


def ours(tuned: vitune.Tuned, folder: Path, **changes: Any) -> VituneTrainer:
    data = loops.data_of(tuned)
    return VituneTrainer(tuned, args=arguments(folder, **changes), train_dataset=data, eval_dataset=data)


@pytest.mark.parametrize("family", ["hf", "plain"])
@pytest.mark.parametrize("policy", [None, loops.OwnLoss, loops.TwoPasses])
def test_our_trainer_makes_every_loss(family: str, policy: Any, tmp_path: Path) -> None:
    tuned, other = (loops.tuned("lora(rank=2)", family, policy and policy()) for _ in range(2))
    start = {name: tensor.clone() for name, tensor in tuned.state().items()}
    trainer = ours(tuned, tmp_path)
    trainer.train()
    loops.assert_same(tuned.state(), loops.plain_loop(other))
    assert any(not torch.equal(tensor, start[name]) for name, tensor in tuned.state().items())
    data = loops.data_of(tuned)
    with torch.no_grad():
        scores = tuned(data.images)
    found = trainer.predict(data)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(torch.from_numpy(found.predictions), scores, rtol=1e-4, atol=1e-5)
    expected = float(F.cross_entropy(scores, data.labels))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)


def test_a_published_method_with_passes_of_its_own(tmp_path: Path) -> None:
    tuned = loops.tuned("dyt(bottleneck=2)", "hf")
    ours(tuned, tmp_path).train()
    assert set(tuned.policies[0].terms) == {"complete", "dynamic", "distillation", "rate"}  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.filterwarnings("ignore")  # of peft, about its own configs
def test_ranks_of_adalora_are_cut_as_in_a_plain_loop(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tuned, other = (loops.tuned("peft(type=ADALORA,init_r=4,target_r=2)", "hf") for _ in range(2))
    ours(tuned, tmp_path).train()
    loops.assert_same(tuned.state(), loops.plain_loop(other))
    assert any((t == 0).any() and (t != 0).any() for name, t in tuned.state().items() if "lora_E" in name)
    with pytest.raises(TrainingError, match=r"VituneTrainer in place of Trainer"):  # it adds to the loss
        VituneCallback(tuned)


def test_parts_of_a_batch_are_one_step(tmp_path: Path) -> None:
    diary = loops.Diary()
    tuned, other = loops.tuned("bitfit", "hf", diary), loops.tuned("bitfit", "hf", loops.Diary())
    trainer = ours(tuned, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer.train()
    assert diary.notes == loops.notes()
    loops.assert_same(tuned.state(), loops.plain_loop(other))


def test_stages_have_optimizers_of_their_own(tmp_path: Path) -> None:
    diary = loops.Diary(stages=2)
    tuned, other = loops.tuned("bitfit", "plain", diary), loops.tuned("bitfit", "plain", loops.Diary(2))
    trainer = ours(tuned, tmp_path)
    trainer.train()
    assert diary.notes == loops.notes(stages=2)
    loops.assert_same(tuned.state(), loops.plain_loop(other, stages=2))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other.policies = (loops.Diary(stages=2),)
    given = VituneTrainer(
        other,
        args=arguments(tmp_path),
        train_dataset=loops.data_of(other),
        optimizers=(optimizer, None),
    )
    with pytest.raises(TrainingError, match="needs a fresh optimizer; leave making it to the Trainer"):
        given.train()


def test_pruning_of_e2vpt_and_its_second_stage(tmp_path: Path) -> None:
    tuned = loops.tuned("e2vpt(prompts=4,kv_prompts=2)", "hf")
    ours(tuned, tmp_path).train()
    assert not moments.next_stage(tuned.policies)  # pruned already


def test_the_callback_in_a_trainer_as_it_is(tmp_path: Path) -> None:
    diary = loops.Diary(stages=2)
    tuned, other = loops.tuned("lora(rank=2)", "hf", diary), loops.tuned("lora(rank=2)", "hf", loops.Diary())
    callback = VituneCallback(tuned)
    trainer = transformers.Trainer(
        tuned.model, arguments(tmp_path), train_dataset=loops.data_of(tuned), callbacks=[callback]
    )
    trainer.train()
    assert diary.notes == loops.notes()
    assert callback.another_stage
    loops.assert_same(tuned.state(), loops.plain_loop(other))


def test_a_resumed_run_gives_policies_their_state_back(tmp_path: Path) -> None:
    first = loops.tuned("lora(rank=2)", "hf", loops.Diary(stages=1))
    ours(first, tmp_path, save_strategy="steps", save_steps=2).train()
    diary = loops.Diary(stages=5)
    again = loops.tuned("lora(rank=2)", "hf", diary)
    ours(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert diary.seen == 7
    assert diary.notes == ["begin 3", "step 2", "backward", "stepped", "end"]
    loops.assert_same(again.state(), first.state())
    (tmp_path / "checkpoint-2" / STATE).unlink()
    lost = ours(loops.tuned("lora(rank=2)", "hf", loops.Diary()), tmp_path)
    with pytest.raises(RunError, match=r"the state of tuning '.*' is missing, so training cannot go on"):
        lost.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("policy", [loops.OwnLoss, loops.TwoPasses])
def test_the_callback_refuses_what_it_cannot_make(policy: Any) -> None:
    message = f"{policy.__name__} has a loss or passes of its own, which a callback cannot make; use .*VituneTrainer"
    with pytest.raises(TrainingError, match=message):
        VituneCallback(loops.tuned("lora(rank=2)", "hf", policy()))


def test_the_callback_refuses_clipped_gradients_and_late_parameters(tmp_path: Path) -> None:
    tuned = loops.tuned("lora(rank=2)", "hf", loops.Diary())

    def train(**changes: Any) -> None:
        trainer = transformers.Trainer(
            tuned.model,
            arguments(tmp_path, **changes),
            train_dataset=loops.data_of(tuned),
            callbacks=[VituneCallback(tuned)],
        )
        trainer.train()

    with pytest.raises(
        TrainingError, match=r"Diary reads gradients before they are clipped .* set max_grad_norm=0"
    ):
        train(max_grad_norm=1.0)

    class Growing(vitune.Policy):
        def prepare(self, batches: Any) -> None:
            head = tuned.anatomy.head[0]
            tuned.model.get_submodule(head).register_parameter("late", torch.nn.Parameter(torch.zeros(1)))

    tuned.policies = (Growing(),)
    with pytest.raises(TrainingError, match="changed what trains after the Trainer made its optimizer; use"):
        train()

"""How DyT trains: its two passes, its loss, its place in the training loop."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.contract.cases import labels
from tests.contract.families import backbone, images
from tests.unit.training.small import small_config, small_data, small_tuned
from torch import Tensor
from torch.nn import functional as F

import vitune
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import Run
from vitune.methods.dyt import Dispatch, DyT
from vitune.methods.dyt.dispatch import nothing_skipped, recorded
from vitune.methods.dyt.policy import DyTPolicy
from vitune.training import fit, moments


def tuned_model(**settings) -> tuple[vitune.Tuned, DyTPolicy, list[Dispatch]]:
    tuned = vitune.apply(backbone("plain"), DyT(bottleneck=4, dropout=0.0, **settings), seed=3)
    (policy,) = tuned.policies
    assert isinstance(policy, DyTPolicy)
    return tuned, policy, [module for module in tuned.model.modules() if isinstance(module, Dispatch)]


def test_two_backward_passes_give_the_gradients_of_the_whole_loss():
    tuned, policy, gates = tuned_model(target_rate=0.3)
    batch, targets = images("plain", batch=4), labels(4)
    torch.manual_seed(0)
    total = 0.0
    for loss in moments.losses(tuned.policies, tuned, batch, targets, F.cross_entropy):
        loss.backward()
        total += loss.item()
    found = {name: p.grad.clone() for name, p in tuned.trainable().items()}
    tuned.model.zero_grad(set_to_none=True)

    torch.manual_seed(0)
    with nothing_skipped(gates):
        complete = tuned(batch)
    with recorded(gates) as notes:
        dynamic = tuned(batch)
    masks = torch.cat([note[0].mask.flatten() for note in notes])
    terms = {
        "dynamic": F.cross_entropy(dynamic, targets),
        "complete": F.cross_entropy(complete, targets),
        "distillation": (
            complete.detach().softmax(-1) * (complete.detach().log_softmax(-1) - dynamic.log_softmax(-1))
        )
        .sum(-1)
        .mean(),
    }
    whole = sum(terms.values()) + 2.0 * (masks.mean() - 0.3) ** 2
    whole.backward()
    assert total == pytest.approx(whole.item(), abs=1e-6)
    for name, parameter in tuned.trainable().items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    logged = policy.log()
    assert logged.keys() == {"dynamic", "complete", "distillation", "rate", "dyt_rates"}
    assert logged["dyt_rates"] == pytest.approx([note[0].mask.mean().item() for note in notes], abs=1e-4)
    assert logged["rate"] == pytest.approx(masks.mean().item())
    for name, term in terms.items():
        assert logged[name] == pytest.approx(term.item(), abs=1e-6)


@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("level", ["fast", "lean", "leanest"])
def test_a_memory_level_leaves_the_last_gate_and_router_their_tokens(level, experts: int):
    """The gate's loss is about all of them, and the router takes their mean, although the head reads one alone."""
    tuned, policy, _ = tuned_model(target_rate=0.3, experts=experts)
    batch, targets = images("plain", batch=4), labels(4)
    found, rates = {}, {}
    for name in ("stock", level):
        tuned.memory = name
        tuned.model.train()
        tuned.model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        for loss in moments.losses(tuned.policies, tuned, batch, targets, F.cross_entropy):
            loss.backward()
        found[name] = {n: p.grad.clone() for n, p in tuned.trainable().items() if p.grad is not None}
        rates[name] = policy.log()["dyt_rates"]
    assert rates[level] == rates["stock"]
    for name, gradient in found["stock"].items():
        torch.testing.assert_close(found[level][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_terms_can_be_left_out():
    batch, targets = images("plain"), labels(2)
    for settings, passes, terms in (
        ({"complete_pass": "learn"}, 2, {"dynamic", "complete", "rate"}),
        ({"complete_pass": "none"}, 1, {"dynamic", "rate"}),
    ):
        tuned, policy, _ = tuned_model(**settings)
        assert len(list(policy.losses(tuned, batch, targets, F.cross_entropy))) == passes == policy.passes
        assert policy.log().keys() == terms | {"dyt_rates"}


def test_the_last_gate_sees_the_rate_loss_alone():
    """The class token alone feeds the head, so that no classification loss reaches the last gate's decisions."""
    for weight in (0.0, 2.0):
        tuned, policy, gates = tuned_model(rate_weight=weight, target_rate=0.1)
        for loss in policy.losses(tuned, images("plain"), labels(2), F.cross_entropy):
            loss.backward()
        norms = [gate.score.weight.grad.abs().sum().item() for gate in gates]
        assert min(norms[:-1]) > 0
        assert (norms[-1] > 0) == (weight > 0)


def test_gates_are_as_before_when_a_pass_is_broken_off():
    tuned, policy, gates = tuned_model()
    passes = policy.losses(tuned, images("plain"), labels(2), F.cross_entropy)
    next(passes)
    assert all(gate.complete for gate in gates)  # also for blocks that the backward pass computes again
    passes.close()  # type: ignore[attr-defined]
    assert not any(gate.complete for gate in gates)
    for _ in policy.losses(tuned, images("plain"), labels(2), F.cross_entropy):
        pass
    assert not any(gate.complete or gate.record is not None for gate in gates)


def test_gradient_checkpointing_gives_the_same_gradients():
    found = []
    for recompute in (False, True):
        tuned, policy, _ = tuned_model()
        tuned.model.set_grad_checkpointing(recompute)
        torch.manual_seed(0)
        for loss in policy.losses(tuned, images("plain"), labels(2), F.cross_entropy):
            loss.backward()
        found.append({name: p.grad for name, p in tuned.trainable().items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_temperature_falls_over_the_run():
    _, policy, gates = tuned_model(temperature=5.0, final_temperature=1.0)
    policy.begin(Run(seed=0, lr=1e-3, steps=4))
    seen = []
    for step in range(6):
        policy.before_step(step)
        seen.append(gates[-1].temperature)
    assert seen == [5.0, 4.0, 3.0, 2.0, 1.0, 1.0]
    _, policy, gates = tuned_model()
    policy.before_step(3)
    assert gates[0].temperature == 5.0


def test_a_copy_and_a_pickle_train_their_own_gates():
    tuned, _, gates = tuned_model()
    for other in (copy.deepcopy(tuned), pickle.loads(pickle.dumps(tuned))):
        passes = other.policies[0].losses(other, images("plain"), labels(2), F.cross_entropy)
        next(passes)
        own = [module for module in other.model.modules() if isinstance(module, Dispatch)]
        assert all(gate.complete for gate in own)
        assert not any(gate.complete for gate in gates)
        passes.close()


def test_costs_are_counted_at_the_rate_that_is_aimed_at():
    """Without values nobody knows what is kept: half of 4 patch tokens and the class token, of 5."""
    tuned, _, gates = tuned_model()

    def loss(model) -> Tensor:
        return F.cross_entropy(model(torch.zeros(4, 3, 32, 32)), torch.zeros(4, dtype=torch.long))

    with weightless_copy(tuned.model.eval()) as twin:
        nominal = saved_activation_bytes(twin, loss).bytes
    rows = 4 * 2 * (len(gates) - 1)
    per_row = 4 * (5 * 32 + 2)
    for gate in gates:
        gate.score.bias.data.fill_(1e4)
    every = saved_activation_bytes(tuned.model, loss).bytes
    assert every - nominal == rows * per_row


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_training_loop_runs_it(tmp_path, accumulate):
    tuned = small_tuned(DyT(bottleneck=2, target_rate=0.4, dropout=0.0))
    lines = []

    def note(event) -> None:
        if event.kind == "step":
            lines.append(event.values)

    config = small_config(accumulate=accumulate, epochs=20)
    result = fit(tuned, small_data(), config, directory=tmp_path, on_event=note)
    assert result.status == "finished"
    for line in lines:
        assert {"dynamic", "complete", "distillation", "rate"} <= line.keys()
    assert lines[-1]["dynamic"] < lines[0]["dynamic"]
    assert lines[-1]["complete"] < lines[0]["complete"]


def test_a_run_repeats_and_depends_on_the_seed():
    def final(seed: int) -> dict[str, Tensor]:
        tuned = small_tuned(DyT(bottleneck=2))
        fit(tuned, small_data(), small_config(seed=seed, epochs=1))
        return tuned.state()

    first, again, other = final(0), final(0), final(1)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in first.items())


def test_half_precision_trains():
    tuned, policy, gates = tuned_model()

    def forward(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tuned(batch)

    for loss in policy.losses(forward, images("plain"), labels(2), F.cross_entropy):
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tuned.parameters())
    tuned.model.eval()
    with torch.no_grad():
        for gate in gates:
            gate.score.bias.fill_(0.0)
        assert forward(images("plain")).isfinite().all()


def test_what_trains_inside_the_skipped_part_gets_its_gradient_in_half_precision():
    methods = [vitune.LoRA(rank=2, roles=("mlp.in", "mlp.out")), DyT(bottleneck=4)]
    tuned = vitune.apply(backbone("plain"), methods)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(tuned(images("plain")).float(), labels(2))
    loss.backward()
    assert [name for name, p in tuned.trainable().items() if p.grad is None] == []

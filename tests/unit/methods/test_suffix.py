"""The random suffix: how many blocks are drawn, what trains then, what is kept, and where it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.errors import CompositionError, ConfigError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes
from vitune.methods import Run, parse
from vitune.methods.suffix import SuffixPolicy, largest_entropy
from vitune.tasks.costing import Subject

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(**arguments) -> nn.Module:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 8, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(small | arguments))


def tune(text: str = "suffix", model: nn.Module | None = None) -> tuple[vitune.Tuned, SuffixPolicy]:
    tuned = vitune.apply(vit() if model is None else model, parse(text))
    tuned.model.train()
    (policy,) = tuned.policies
    assert isinstance(policy, SuffixPolicy)
    return tuned, policy


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IMAGES), torch.tensor([0, 1]))


def with_gradient(tuned: vitune.Tuned) -> set[str]:
    tuned.model.zero_grad(set_to_none=True)
    loss(tuned.model).backward()
    return {name for name, p in tuned.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("most", "mean"), [(4, 2), (8, 2), (12, 3), (6, 3), (5, 1), (3, 3), (1, 1), (7, 2.5)]
)
def test_the_numbers_have_the_mean_and_ratios_of_largest_entropy(most, mean):
    found = np.array(largest_entropy(most, mean))
    assert len(found) == most
    assert found.sum() == pytest.approx(1)
    assert found @ np.arange(1, most + 1) == pytest.approx(mean)
    if 1 < mean < most:
        ratios = found[1:] / found[:-1]
        assert ratios == pytest.approx(ratios[0])  # P(n) ~ exp(-s n)


def test_numbers_are_drawn_anew_each_step_as_a_function_of_seed_and_step():
    drawn = {}
    for seed in (0, 1):
        _, policy = tune("suffix(k=2,deepest=8)")
        policy.begin(Run(seed=seed, lr=0.1, steps=400))
        drawn[seed] = []
        for step in range(400):
            policy.before_step(step)
            drawn[seed].append(policy.length)
            assert policy.log() == {"suffix_blocks": policy.length}
    _, policy = tune("suffix(k=2,deepest=8)")
    policy.begin(Run(seed=1, lr=0.1, steps=400))
    policy.before_step(399)
    assert policy.length == drawn[1][399]
    assert drawn[0] != drawn[1]
    assert np.mean(drawn[0]) == pytest.approx(2, abs=0.2)
    assert set(drawn[0]) >= {1, 2, 3, 4, 5}


def test_a_quarter_trains_in_the_mean_and_at_most_half():
    tuned, policy = tune()
    assert policy.length == 4
    trained = {name.split(".")[1] for name in tuned.trainable() if name.startswith("blocks.")}
    assert trained == {"4", "5", "6", "7"}
    assert "cls_token" not in tuned.trainable()
    assert tuned.methods[0].lengths(8) == pytest.approx(largest_entropy(4, 2))  # type: ignore[attr-defined]
    assert vitune.Suffix(deepest=1).lengths(8) == (1.0,)  # fewer than a quarter
    tuned, policy = tune("suffix(k=3,deepest=3)")  # Partial-3
    for step in range(5):
        policy.before_step(step)
        assert policy.length == 3


@pytest.mark.parametrize("text", ["suffix(k=2,deepest=8)", "lora(rank=2),suffix(k=2,deepest=8)"])
@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("memory", ["stock", "fast", "leanest"])
def test_what_is_behind_the_lowest_block_trains_and_nothing_in_front(text, length, memory):
    tuned, policy = tune(text)
    tuned.memory = memory
    policy.train_last(length)
    last = tuple(f"blocks.{block}." for block in range(8 - length, 8))
    behind = ("norm.", "head.")
    front = ("cls_token", "pos_embed", "patch_embed.") if length == 8 else ()
    expected = {name for name in tuned.trainable() if name.startswith((*last, *behind, *front))}
    assert with_gradient(tuned) == expected


def test_between_the_stages_of_a_hierarchy():
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=2,
        embed_dim=8,
        depths=(1, 2, 2, 1),
        num_heads=(1, 1, 2, 2),
        num_classes=3,
    )
    tuned, policy = tune("suffix(k=3,deepest=6)", model)
    policy.train_last(1)  # the merge in front of the last stage has no block behind which it could rest
    assert {name for name in with_gradient(tuned) if "downsample" in name} == set()
    policy.train_last(2)
    assert {name.split(".down")[0] for name in with_gradient(tuned) if "downsample" in name} == {"layers.3"}
    policy.train_last(5)
    merges = {name.split(".down")[0] for name in with_gradient(tuned) if "downsample" in name}
    assert merges == {"layers.2", "layers.3"}
    policy.train_last(6)
    assert with_gradient(tuned) == set(tuned.trainable()) == {name for name, _ in model.named_parameters()}


def test_adamw_leaves_what_rests_alone():
    tuned, policy = tune("suffix(k=2,deepest=8)")
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-2, weight_decay=0.1)
    for length in (8, 2):
        policy.train_last(length)
        before = {name: p.detach().clone() for name, p in tuned.trainable().items()}
        with_gradient(tuned)
        optimizer.step()
    moved = {name for name, p in tuned.trainable().items() if not torch.equal(p, before[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("blocks.")} == {"6", "7"}
    assert not any(name.startswith(("cls_token", "pos_embed", "patch_embed")) for name in moved)


def test_a_step_keeps_what_its_blocks_need_and_costs_are_counted_at_the_deepest():
    tuned, policy = tune()
    kept = []
    for length in (1, 2, 3, 4):
        policy.train_last(length)
        kept.append(saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes)
    steps = np.diff(kept)
    assert (steps > 0).all()
    assert steps[0] == steps[1] == steps[2]  # a block's worth each
    fresh, _ = tune()
    assert saved_activation_bytes(fresh.model, loss, ignore=[IMAGES]).bytes == kept[-1]
    full = vitune.apply(vit(), parse("full"))
    whole = saved_activation_bytes(full.model.train(), loss, ignore=[IMAGES]).bytes
    assert whole - kept[-1] >= 4 * steps[0]


def test_the_mean_step_is_counted_over_what_is_drawn():
    subject = Subject("vit_tiny_patch16_224", 2, image_size=32)
    tuned = subject.tuned("suffix(k=2,deepest=3)", "fast", weights=False)
    counts = []
    for length in (1, 2, 3):
        fixed = subject.tuned(f"suffix(k={length},deepest={length})", "fast", weights=False)
        counts.append(subject.step_work(fixed, 2).flops)
    before = [p.requires_grad for p in tuned.model.parameters()]
    # The largest entropy with the mean in the middle is uniform.
    assert subject.mean_step_work(tuned, 2).flops == pytest.approx(sum(counts) / 3, rel=1e-6)
    assert subject.step_work(tuned, 2).flops == counts[-1]
    assert [p.requires_grad for p in tuned.model.parameters()] == before
    full = subject.tuned("full", "fast", weights=False)
    assert subject.mean_step_work(full, 2) == subject.step_work(full, 2)


def test_evaluation_and_merging_know_nothing_of_it():
    tuned, policy = tune()
    policy.train_last(1)
    plain = vit().eval()
    tuned.model.eval()
    torch.testing.assert_close(tuned(IMAGES), plain(IMAGES), rtol=0, atol=0)
    merged = tuned.merge()
    assert merged.state_dict().keys() == plain.state_dict().keys()


def test_another_stage_starts_with_all_that_may_train():
    _, policy = tune()
    policy.train_last(1)
    assert policy.next_stage() is False
    assert policy.length == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suffix(k=0)", "k must be at least 1, not 0"),
        ("suffix(k=3,deepest=2)", "deepest must be at least k, not 2"),
    ],
)
def test_settings_out_of_range_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(UnsupportedBackboneError, match="suffix: k is 9, and the backbone has 8 blocks"):
        vitune.apply(vit(), parse("suffix(k=9)"))
    with pytest.raises(CompositionError, match="both decide which blocks train"):
        vitune.apply(vit(), parse("alast,suffix"))
    with pytest.raises(CompositionError, match="a linear probe trains no block"):
        vitune.apply(vit(), parse("linear,suffix"))

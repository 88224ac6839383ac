"""ALaST: what trains, which tokens stay, what evaluation leaves alone, and costs equal to the formulas."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.errors import CompositionError, ConfigError, UnsupportedBackboneError
from vitune.measure import count_flops, saved_activation_bytes, weightless_copy
from vitune.methods import Run, parse
from vitune.methods.alast import BlockShape, alast_costs
from vitune.methods.alast.edits import BlockShare
from vitune.methods.alast.policy import ALaSTPolicy
from vitune.methods.alast.tokens import put_back, take


def vit(**arguments) -> nn.Module:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(small | arguments))


def tune(text: str = "alast(budget_lr=50.0)", **arguments) -> tuple[vitune.Tuned, ALaSTPolicy]:
    tuned = vitune.apply(vit(**arguments), parse(text))
    tuned.model.train()
    policy = tuned.policies[-1]
    assert isinstance(policy, ALaSTPolicy)
    return tuned, policy


def images(batch: int = 2, seed: int = 1, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def backward(tuned: vitune.Tuned, batch: Tensor) -> Tensor:
    logits = tuned(batch)
    F.cross_entropy(logits, torch.arange(len(batch)) % 3).backward()
    return logits.detach()


def step(
    tuned: vitune.Tuned, policy: ALaSTPolicy, number: int, optimizer=None, batch: Tensor | None = None
) -> None:
    policy.before_step(number)
    backward(tuned, images(seed=number) if batch is None else batch)
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    policy.after_step()


@pytest.mark.parametrize("text", ["alast(k=2)", "full,alast(k=2)", "lora(rank=2),alast(k=2)"])
@pytest.mark.parametrize("also", ["", ",velora"])
def test_a_block_that_is_not_drawn_gets_no_gradient_and_all_else_does(text, also):
    tuned, policy = tune(text.replace("alast(k=2)", "alast(k=2)" + also))
    policy = tuned.policies[0]
    policy.before_step(0)
    backward(tuned, images())
    with_gradient = {name for name, p in tuned.trainable().items() if p.grad is not None}
    drawn = tuple(f"blocks.{block}." for block in policy.selected)
    expected = {n for n in tuned.trainable() if not n.startswith("blocks.") or n.startswith(drawn)}
    assert len(drawn) == 2
    assert with_gradient == expected


def test_adamw_leaves_resting_weights_and_their_moments_alone():
    tuned, policy = tune()
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-2, weight_decay=0.1)
    policy.before_step(0)
    for number, blocks in enumerate([(0, 1, 2), (1, 2, 3)]):
        policy.train_blocks(blocks)
        backward(tuned, images(seed=number))
        resting = tuned.model.get_parameter(f"blocks.{3 if number == 0 else 0}.mlp.fc1.weight")
        before = resting.clone(), copy.deepcopy(optimizer.state.get(resting, {}))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert torch.equal(resting, before[0])
        assert optimizer.state.get(resting, {}).keys() == before[1].keys()
        assert all(torch.equal(optimizer.state[resting][key], value) for key, value in before[1].items())
    assert optimizer.state[tuned.model.get_parameter("blocks.0.mlp.fc1.weight")]["step"] == 1
    assert optimizer.state[tuned.model.get_parameter("blocks.1.mlp.fc1.weight")]["step"] == 2


def test_blocks_are_drawn_anew_each_step_as_a_function_of_seed_and_step():
    drawn: dict[int, list[tuple[int, ...]]] = {}
    for seed in (0, 0, 1):
        _, policy = tune("alast(k=2,budget_rule=flat)", depth=6)
        policy.begin(Run(seed=seed, lr=1e-4, steps=20))
        found = []
        for number in range(20):
            policy.before_step(number)
            found.append(policy.selected)
        assert drawn.setdefault(seed, found) == found
    assert drawn[0] != drawn[1]
    assert {block for blocks in drawn[0] for block in blocks} == set(range(6))


def test_the_learning_rate_of_the_run_moves_budgets_unless_one_is_set():
    for text, rate in [("alast", 0.3), ("alast(budget_lr=50.0)", 50.0)]:
        _, policy = tune(text)
        policy.begin(Run(seed=0, lr=0.3, steps=5))
        assert policy.steering.rate == rate


@pytest.mark.parametrize("rule", ["published", "flat", "schedule", "target_flops"])
@pytest.mark.parametrize("dropped", ["gone", "carried"])
def test_evaluation_is_the_plain_model_and_moves_nothing(rule, dropped):
    plain, (tuned, policy) = vit().eval(), tune(f"alast(budget_rule={rule},dropped={dropped},budget_lr=50.0)")
    step(tuned, policy, 0)
    before = policy.state_dict()
    tuned.model.eval()
    with torch.no_grad():
        assert torch.equal(tuned(images()), plain(images()))
    tuned.model.train()
    with torch.no_grad():
        tuned(images())
    after = policy.state_dict()
    assert torch.equal(after["budgets"], before["budgets"])
    assert torch.equal(after["deltas"].nan_to_num(), before["deltas"].nan_to_num())
    assert list(tuned.model.state_dict()) == list(plain.state_dict())


def test_tokens_that_stay_are_those_the_class_token_attends_to():
    tuned, policy = tune("alast(budget_rule=flat,initial_budget=0.5)", depth=2)
    seen = {}
    for name in ("blocks.0.attn.qkv", "blocks.0", "blocks.1.norm1"):
        tuned.model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    backward(tuned, images())
    qkv = seen["blocks.0.attn.qkv"][1]
    q, k, _ = qkv.view(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-2, -1) / 4).softmax(-1)[:, :, 0, 1:].mean(1)
    wanted = attention.topk(8).indices  # floor(0.5 * 17)
    entered = seen["blocks.1.norm1"][0]
    assert entered.shape == (2, 9, 32)
    with torch.no_grad():
        full = _whole_block(tuned, images())
    for i in range(2):
        rows = torch.cat([full[i, :1], full[i, 1 + wanted[i].sort().values]])
        order = torch.cdist(entered[i], rows).argmin(0)
        torch.testing.assert_close(entered[i][order], rows)
    assert policy.steering.entered() == [17, 9]


def _whole_block(tuned: vitune.Tuned, batch: Tensor) -> Tensor:
    plain = vit(depth=2).eval()
    plain.load_state_dict(tuned.model.state_dict())
    x = plain._pos_embed(plain.patch_embed(batch))
    return plain.blocks[0](x)


def test_all_prefix_tokens_stay():
    model = timm.create_model(
        "vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=32, depth=2, num_heads=2, num_classes=3
    )
    tuned = vitune.apply(model, vitune.ALaST(budget_rule="flat", initial_budget=0.5))
    tuned.model.train()
    tuned(images(size=56))
    assert tuned.policies[0].steering.entered() == [21, 5 + 8]  # 4 registers; floor(0.5 * (16 + 1)) patches


def test_taking_and_putting_back():
    x, rows = torch.randn(2, 6, 3), torch.tensor([[3, 0], [1, 4]])
    taken = take(x, rows, 1)
    assert torch.equal(taken[1], x[1, [0, 2, 5]])
    back = put_back(x, taken + 1, rows, 1)
    assert torch.equal(back[0] - x[0] > 0.5, torch.tensor([1, 1, 0, 0, 1, 0]).bool()[:, None].expand(6, 3))


def test_carried_tokens_come_back_and_pass_a_block_unchanged():
    tuned, policy = tune("alast(budget_rule=flat,initial_budget=0.5,dropped=carried)")
    outputs = []
    for i in range(4):
        tuned.model.blocks[i].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    backward(tuned, images())
    assert [output.shape[1] for output in outputs] == [17, 17, 17, 17]
    assert policy.steering.entered() == [17, 9, 9, 9]
    same = (outputs[1] == outputs[2]).all(-1).sum(1)
    assert same.tolist() == [8, 8]
    assert all(p.grad is not None for p in tuned.parameters())


@pytest.mark.parametrize(("step_size", "entered"), [(1, [17, 13, 10]), (4, [17, 13, 13]), (32, [17, 17, 17])])
def test_patches_stay_in_multiples(step_size: int, entered: list[int]):
    tuned, policy = tune(f"alast(budget_rule=flat,initial_budget=0.75,token_step={step_size})", depth=3)
    step(tuned, policy, 0)
    assert policy.steering.entered() == entered


@pytest.mark.parametrize("options", ["", ",dropped=carried", ",tokens=random", ",budget_timing=previous"])
def test_gradient_checkpointing_repeats_the_same_choice(options):
    found = []
    for checkpointed in (False, True):
        tuned, policy = tune(f"alast(budget_lr=50.0,k=2,initial_budget=0.6{options})")
        tuned.model.set_grad_checkpointing(checkpointed)
        for number in range(2):
            tuned.model.zero_grad(set_to_none=True)
            torch.manual_seed(number)
            step(tuned, policy, number)
        gradients = {name: p.grad for name, p in tuned.trainable().items() if p.grad is not None}
        found.append((gradients, policy.state_dict()))
    (one, state), (other, other_state) = found
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-7)
    assert torch.equal(state["budgets"], other_state["budgets"])


def test_with_the_budgets_of_the_step_before_nothing_is_known_too_early():
    tuned, policy = tune("alast(budget_lr=50.0,budget_timing=previous)")
    for number in range(3):
        before = list(policy.steering.budgets)
        policy.before_step(number)
        backward(tuned, images(seed=number))
        assert policy.steering.budgets == before
        policy.after_step()
    assert policy.steering.budgets != [0.9] * 4


@pytest.mark.parametrize("options", ["", ",dropped=carried", ",budget_timing=previous"])
@pytest.mark.parametrize("memory", ["fast", "lean", "leaner", "leanest"])
def test_every_memory_level_sees_drops_and_learns_the_same(options, memory):
    results = []
    for level in ("stock", memory):
        tuned, policy = tune(f"alast(k=2,budget_lr=0.05{options})")
        tuned.memory = level
        policy.begin(Run(seed=3, lr=0.0, steps=4))
        for number in range(4):
            policy.before_step(number)
            tuned.model.zero_grad()
            logits = backward(tuned, images(seed=number))
            policy.after_step()
        gradients = {n: p.grad for n, p in tuned.trainable().items() if p.grad is not None}
        state = policy.state_dict()
        results.append((logits, gradients, policy.log()["alast_tokens"], policy.selected, state))
    (logits, gradients, tokens, drawn, state), (logits2, gradients2, tokens2, drawn2, state2) = results
    assert tokens2 == tokens
    assert len(tokens) == 4
    assert tokens[-1] < 17
    assert drawn2 == drawn
    assert state["budgets"].unique().numel() == 4  # the last one moves too
    torch.testing.assert_close(state2["budgets"], state["budgets"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state2["deltas"], state["deltas"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits2, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients2, gradients, rtol=1e-3, atol=1e-5)


def test_accumulated_parts_move_the_budgets_one_after_the_other():
    moved = []
    for timing in ("current", "previous"):
        tuned, policy = tune(f"alast(budget_lr=50.0,tokens=all,budget_timing={timing})")
        policy.before_step(0)
        for number in range(3):
            backward(tuned, images(seed=number))
        policy.after_step()
        moved.append(policy.steering.budgets)
    torch.testing.assert_close(torch.tensor(moved[0]), torch.tensor(moved[1]))


def test_what_a_checkpoint_holds_continues_the_same():
    tuned, policy = tune()
    for number in range(2):
        step(tuned, policy, number)
    twin, other = tune()
    twin.model.load_state_dict(tuned.model.state_dict())
    other.load_state_dict(policy.state_dict())
    for handle, its in ((tuned, policy), (twin, other)):
        step(handle, its, 2)
    assert policy.selected == other.selected
    assert torch.equal(policy.state_dict()["budgets"], other.state_dict()["budgets"])
    assert policy.log() == other.log()


def test_copies_have_budgets_of_their_own():
    tuned, policy = tune()
    step(tuned, policy, 0)
    for copied in (copy.deepcopy(tuned.model), pickle.loads(pickle.dumps(tuned.model))):
        shares = [module for module in copied.modules() if isinstance(module, BlockShare)]
        assert len({id(share.steering) for share in shares}) == 1
        assert shares[0].steering is not policy.steering
        assert shares[0].steering.budgets == policy.steering.budgets


def test_a_delta_that_is_not_finite_leaves_the_budget():
    tuned, policy = tune()
    for number in range(3):
        step(tuned, policy, number)
    before = list(policy.steering.budgets)
    assert len(set(before)) > 1
    policy.steering._move(2, float("inf"))
    policy.steering._move(1, float("nan"))
    assert policy.steering.budgets == before


def test_the_budgets_of_the_tests_move_and_so_do_the_tokens():
    tuned, policy = tune()
    found = []
    for number in range(4):
        step(tuned, policy, number)
        found.append((tuple(policy.steering.budgets), tuple(policy.steering.entered())))
    assert found[0][0] == (1.0,) * 4  # the first change is compared with none
    assert all(len(set(budgets)) > 1 for budgets, _ in found[1:])
    assert len({tokens for _, tokens in found}) > 1


def test_budgets_that_jump_are_reported_once():
    tuned, policy = tune("alast(budget_lr=1e5)")
    for number in range(10):
        step(tuned, policy, number)  # the first has nothing to compare with
    policy.before_step(10)
    backward(tuned, images(seed=10))
    with pytest.warns(
        UserWarning, match=r"budgets move by .* a step.*smaller budget_lr than 100000, or budget_rule=flat"
    ):
        policy.after_step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(tuned, policy, 11)


def test_the_log_names_budgets_blocks_and_tokens():
    tuned, policy = tune("alast(budget_rule=flat,k=2)")
    step(tuned, policy, 0)
    assert policy.log() == {
        "alast_budgets": [0.9] * 4,
        "alast_trained": list(policy.selected),
        "alast_tokens": [17, 16, 15, 14],
    }


def test_a_schedule_goes_down_in_a_line_and_ends_with_all_tokens():
    _, policy = tune("alast(budget_rule=schedule,initial_budget=1.0,final_budget=0.6,dense_share=0.2)")
    policy.begin(Run(seed=0, lr=1e-4, steps=10))
    found = []
    for number in range(10):
        policy.before_step(number)
        found.append(policy.steering.budgets[0])
    assert found == pytest.approx([1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 1.0, 1.0])


def test_a_target_of_flops_is_met_and_important_blocks_keep_more():
    tuned, policy = tune(
        "alast(budget_rule=target_flops,target_flops=0.5,budget_range=0.2+1.0)", patch_size=2
    )
    for number in range(3):
        step(tuned, policy, number, batch=images(1, number))
    policy.before_step(3)
    steering, weights = policy.steering, policy.steering.importance.weights
    assert steering.importance.seen
    assert sum(weights) == pytest.approx(4)
    order = sorted(range(4), key=lambda block: weights[block])
    assert [steering.budgets[block] for block in order] == sorted(steering.budgets)
    backward(tuned, images(1))
    shape, tokens = BlockShape.of(tuned.anatomy), policy.steering.entered()

    def blocks_alone(tokens: list[int], trained: range | tuple[int, ...]) -> int:
        whole = alast_costs(shape, tokens, trained, scored=False)
        rest = alast_costs(shape, [0] * 4, ())
        return whole.step_flops - rest.step_flops

    drawn = [tuple(j for j in range(4) if j != i) for i in range(4)]
    mean = sum(blocks_alone(tokens, blocks) for blocks in drawn) / 4
    assert mean / blocks_alone([257] * 4, range(4)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("trained", [(0, 1, 2, 3), (1, 3), (2,)])
@pytest.mark.parametrize("train_embeddings", [True, False])
@pytest.mark.parametrize("budget", [1.0, 0.8])
@pytest.mark.parametrize("memory", ["stock", "fast", "lean", "leaner"])
def test_costs_are_those_of_the_formula(trained, train_embeddings, budget, memory):
    tuned, policy = tune(
        f"alast(budget_rule=flat,initial_budget={budget},train_embeddings={str(train_embeddings).lower()})"
    )
    policy.train_blocks(trained)
    tuned.memory = memory
    with weightless_copy(tuned.model) as twin:
        batch, logits = torch.zeros(3, 3, 32, 32), []
        forward = count_flops(lambda: logits.append(twin(batch)), convention="MAC")
        backward = count_flops(lambda: logits[0].sum().backward(), convention="MAC")
        saved = saved_activation_bytes(twin, lambda net: net(batch).sum())
    tokens = [17, 17, 17, 17] if budget == 1.0 else [17, 14, 12, 10]
    shape = BlockShape.of(tuned.anatomy)
    expected = alast_costs(shape, tokens, trained, train_embeddings=train_embeddings, memory=memory)
    assert (forward, backward) == (3 * expected.forward_macs, 3 * expected.backward_macs)
    assert saved.bytes == 3 * expected.saved_bytes


def test_a_step_in_parts_has_no_formula():
    with pytest.raises(ConfigError, match="no formula for memory 'leanest'; use 'leaner' or less"):
        alast_costs(BlockShape(32, 2, 16, 1, 192, 3), [17] * 4, range(4), memory="leanest")


def test_counting_costs_moves_no_budget():
    tuned, policy = tune()
    before = policy.state_dict()["budgets"]
    with weightless_copy(tuned.model) as twin:
        twin(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert torch.equal(policy.state_dict()["budgets"], before)


def test_merging_and_detaching_leave_a_plain_model():
    plain = vit()
    for text in ("alast", "lora(rank=2),alast"):
        tuned, policy = tune(text)
        step(tuned, policy, 0)
        assert [type(m) for m in tuned.merge().modules()] == [type(m) for m in plain.modules()]
        tuned, _ = tune(text)
        assert [type(m) for m in tuned.detach().modules()] == [type(m) for m in plain.modules()]


def test_half_precision_keeps_deltas_in_float32():
    tuned, policy = tune()
    with torch.autocast("cpu", torch.bfloat16):
        step(tuned, policy, 0)
    reference, other = tune()
    step(reference, other, 0)
    torch.testing.assert_close(policy.steering.deltas, other.steering.deltas, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, r"alast: k must be at least 1, not 0"),
        ({"budget_range": (1.0, 0.5)}, r"budget_range must be two numbers in \[0, 1\], the smaller first"),
        ({"budget_range": (0.5,)}, r"budget_range must be two numbers"),
        ({"budget_lr": -1.0}, r"budget_lr must be 0 or a positive number"),
        ({"token_step": 0}, r"token_step must be at least 1"),
        ({"initial_budget": 0.0}, r"initial_budget must be in \(0, 1\]"),
        ({"selection": "all"}, r"selection must be one of softmax_sample, linear_sample, topk"),
        ({"budget_rule": "learnt"}, r"budget_rule must be one of published, flat, schedule, target_flops"),
        ({"final_budget": 2.0}, r"final_budget must be in \(0, 1\]"),
        ({"dense_share": 1.0}, r"dense_share must be in \[0, 1\)"),
        ({"target_flops": 0.0}, r"target_flops must be in \(0, 1\]"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        vitune.ALaST(**setting)


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(UnsupportedBackboneError, match=r"alast: k is 9, and the backbone has 4 blocks"):
        tune("alast(k=9)")
    with pytest.raises(UnsupportedBackboneError, match=r"'avg' pooling.*budgets follow the class token"):
        tune("alast", global_pool="avg")
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        embed_dim=16,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=7,
    )
    with pytest.raises(
        UnsupportedBackboneError,
        match=r"alast: timm-swin backbones are not supported; it needs a class token",
    ):
        vitune.apply(swin, vitune.ALaST())
    with pytest.raises(CompositionError, match=r"a linear probe trains no block that could be selected"):
        tune("linear,alast")
    with pytest.raises(CompositionError, match=r"ALaST would drop prompts like patches"):
        tune("vpt,alast")


@pytest.mark.parametrize("tokens", ["attention", "random"])
def test_rotary_positions_go_along_with_the_tokens(tokens):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_small_patch16_dinov3",
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=3,
        global_pool="token",
    )
    plain = copy.deepcopy(model).train()
    tuned = vitune.apply(model, vitune.ALaST(budget_rule="flat", initial_budget=0.5, tokens=tokens))
    tuned.model.train()
    steering, seen = tuned.policies[0].steering, {}
    model.blocks[1].norm1.register_forward_hook(lambda m, inputs, output: seen.update(entered=inputs[0]))
    model.blocks[1].mlp.register_forward_hook(lambda m, inputs, output: seen.update(mixed=inputs[0]))
    batch = images(size=64)
    tuned(batch)
    prefix, places = tuned.anatomy.num_prefix_tokens, steering.forward.places[1]
    kept = torch.cat([torch.arange(prefix).expand(2, -1), places + prefix], 1)
    # The same in the plain model, where tokens that are gone are masked.
    full = {}
    plain.blocks[0].register_forward_hook(lambda m, inputs, output: full.update(entered=output))
    plain.blocks[1].register_forward_pre_hook(
        lambda m, inputs, kwargs: (inputs, {**kwargs, "attn_mask": _only(kept, full["entered"])}),
        with_kwargs=True,
    )
    plain.blocks[1].mlp.register_forward_hook(lambda m, inputs, output: full.update(mixed=inputs[0]))
    plain(batch)
    assert len(kept[0]) < full["entered"].shape[1]
    for name in ("entered", "mixed"):
        rows = full[name].gather(1, kept[..., None].expand(-1, -1, 32))
        torch.testing.assert_close(seen[name], rows, rtol=1e-4, atol=1e-5)


def _only(kept: Tensor, stream: Tensor) -> Tensor:
    mask = torch.zeros(stream.shape[:2], dtype=torch.bool).scatter(1, kept, True)
    return mask[:, None, None].expand(-1, -1, stream.shape[1], -1)

"""Every memory level gives the gradients of stock autograd, keeps what its formula says, and leaves no trace."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn

import vitune
from vitune.errors import UnsupportedBackboneError
from vitune.lean import LEVELS, Level, blocks, memory_level, set_memory
from vitune.measure import count_flops, live_bytes, saved_activation_bytes
from vitune.methods import parse

DEPTH, WIDTH, TOKENS, BATCH, HEADS = 4, 32, 17, 2, 2
ND = BATCH * TOKENS * WIDTH * 4  # bytes of one activation of the residual stream
METHODS = [
    "full",
    "linear",
    "bitfit",
    "lora",
    "lora(roles=all-linear)",
    "ssf",
    "adaptformer(bottleneck=4,dropout=0.0)",
    "e2vpt(prompts=3,kv_prompts=2,segments=8,dropout=0.0)",
]
SPARSE = "sparse=attn.q.weight:9+attn.v.weight:40+attn.out.weight:50+mlp.in.weight:20+mlp.out.weight:7"
METHODS += [
    f"spt(rank=2,dropout=0.0,drop_path=0.0,structured=attn.k,vectors=norm1.bias,{SPARSE})",
    f"spt(structure=adapter,rank=2,dropout=0.0,drop_path=0.0,structured=attn.k,{SPARSE})",
]


def vit(**arguments) -> nn.Module:
    arguments = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
    } | arguments
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments).train()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def tune(text: str, **arguments) -> vitune.Tuned:
    tuned = vitune.apply(vit(**arguments), parse(text))
    for parameter in tuned.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return tuned


IMAGES = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def loss(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(IMAGES), torch.tensor([0, 2]))


def gradients(tuned: vitune.Tuned) -> dict[str, Tensor]:
    tuned.model.zero_grad(set_to_none=True)
    loss(tuned.model).backward()
    return {name: p.grad.clone() for name, p in tuned.trainable().items() if p.grad is not None}


def assert_close(ours: dict[str, Tensor], stock: dict[str, Tensor]) -> None:
    assert ours.keys() == stock.keys()
    for name, reference in stock.items():
        # The key bias has no true gradient: what is computed for it is rounding alone.
        scale = 1e-5 * reference.abs().max().item() + 1e-7
        torch.testing.assert_close(ours[name], reference, rtol=0, atol=scale, msg=name)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "stock"])
@pytest.mark.parametrize("text", METHODS)
def test_gradients_are_those_of_stock_autograd(text, level):
    tuned = tune(text)
    stock = gradients(tuned)
    tuned.memory = level
    assert tuned.memory == level
    assert_close(gradients(tuned), stock)


@pytest.mark.parametrize("text", ["full", "lora", "ssf"])
def test_with_all_tokens_in_the_last_block_they_are_equal_bit_for_bit(text):
    tuned = tune(text)
    stock = gradients(tuned)
    for level in ("fast", "lean", "leaner"):
        set_memory(tuned.anatomy, level, each_token_alone=False)
        ours = gradients(tuned)
        assert all(torch.equal(ours[name], stock[name]) for name in stock)


# What a block keeps, in activations of the residual stream: two inputs of norms, queries, keys and values, the MLP's
# hidden layer of four; SSF keeps what its scales act on. The last block keeps its input; the rest is its few rows.
KEPT = {
    ("full", "fast"): 9,
    ("full", "lean"): 5,
    ("full", "leaner"): 2,
    ("lora", "fast"): 9,
    ("lora", "lean"): 5,
    ("lora", "leaner"): 2,
    ("lora(roles=all-linear)", "fast"): 9,
    ("bitfit", "lean"): 5,
    (METHODS[-2], "fast"): 9,
    (METHODS[-2], "lean"): 5,
    (METHODS[-2], "leaner"): 2,
    ("ssf", "fast"): 10,
    ("ssf", "lean"): 6,
    ("ssf", "leaner"): 3,
}


@pytest.mark.parametrize(("text", "level"), KEPT)
def test_each_block_keeps_what_the_formula_says(text, level):
    def saved(depth: int) -> int:
        tuned = tune(text, depth=depth)
        tuned.memory = level
        return saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes

    statistics = 2 * 2 * BATCH * TOKENS * 4 + BATCH * HEADS * TOKENS * 4
    one_more = saved(DEPTH + 1) - saved(DEPTH)
    low_rank = (one_more - KEPT[text, level] * ND - statistics) / (BATCH * TOKENS * 4)
    # LoRA keeps its few inner numbers of each token, and the up-projection as it was put together; SSF two vectors;
    # SPT its few entries and their places, put together for q, k and v.
    allowed = {
        "lora": 16 + 8 * 4 * WIDTH,
        "lora(roles=all-linear)": 8 * 6 + 16,
        "ssf": 2,
        METHODS[-2]: 16,
    }.get(text, 0)
    assert -1 < low_rank <= allowed


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("level", ["fast", "lean", "leaner"])
def test_both_ways_of_counting_agree(text, level):
    tuned = tune(text)
    tuned.memory = level
    saved = saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes
    live = live_bytes(tuned.model, loss, ignore=[IMAGES], backward=False).after_forward
    assert 0 <= live - saved <= 64  # the loss, and cross-entropy's few numbers


def test_each_level_keeps_less_than_the_one_before():
    tuned = tune("lora(rank=2)")
    kept = []
    for level in LEVELS:
        tuned.memory = level
        kept.append(saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes)
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(LEVELS)


def test_a_linear_probe_keeps_a_row_per_image():
    tuned = tune("linear")
    tuned.memory = "fast"
    assert saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes < 2 * BATCH * WIDTH * 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"global_pool": "avg"},
        {"reg_tokens": 2},
        {"init_values": 0.1},
        {"qk_norm": True},
        {"class_token": False, "global_pool": "avg"},
    ],
    ids=str,
)
def test_other_kinds_of_vit(arguments):
    tuned = tune("lora", **arguments)
    stock = gradients(tuned)
    tuned.memory = "leaner"
    assert_close(gradients(tuned), stock)


def test_dropout_and_drop_path_draw_what_stock_draws():
    tuned = tune("lora(dropout=0.2)", drop_path_rate=0.3, proj_drop_rate=0.2)
    set_memory(tuned.anatomy, "stock")
    torch.manual_seed(5)
    stock = gradients(tuned)
    set_memory(tuned.anatomy, "leaner", each_token_alone=False)
    torch.manual_seed(5)
    assert_close(gradients(tuned), stock)


def test_under_autocast():
    tuned = tune("lora")
    exact = gradients(tuned)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = gradients(tuned)
        kept = saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes
    set_memory(tuned.anatomy, "fast", each_token_alone=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = gradients(tuned)
        lean = saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes
    assert off(ours, exact) <= off(stock, exact) < 0.05  # attention's gradients are computed in float32
    assert lean < 0.65 * kept  # among others, copies of the weights in bf16


def off(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    squares = sum(float((found[name] - exact[name]).norm()) ** 2 for name in exact)
    return (squares / sum(float(tensor.norm()) ** 2 for tensor in exact.values())) ** 0.5


def test_evaluation_is_untouched():
    tuned = tune("lora")
    tuned.model.eval()
    plain = tuned(IMAGES)
    tuned.memory = "leaner"
    assert torch.equal(tuned(IMAGES), plain)
    assert tuned.model.forward_features(IMAGES).shape == (BATCH, TOKENS, WIDTH)
    tuned.model.train()
    assert tuned.model.forward_features(IMAGES).shape == (BATCH, TOKENS, WIDTH)


def test_it_survives_copies_and_pickling():
    tuned = tune("ssf")
    tuned.memory = "lean"
    stock = loss(tuned.model).item()
    for model in (copy.deepcopy(tuned.model), pickle.loads(pickle.dumps(tuned.model))):
        assert memory_level(model) == "lean"
        assert loss(model).item() == pytest.approx(stock, abs=1e-6)


def test_stock_and_detach_leave_no_trace():
    tuned = tune("lora")
    for level in LEVELS:
        tuned.memory = level
    tuned.memory = "stock"
    assert ".memory" not in "".join(name for name, _ in tuned.model.named_modules())
    tuned.memory = "lean"
    plain = vit()
    tuned.detach()
    assert {n: type(m) for n, m in tuned.model.named_modules()} == {
        n: type(m) for n, m in plain.named_modules()
    }


def test_a_merged_model_is_plain_again():
    tuned = tune("lora")
    tuned.memory = "lean"
    assert type(tuned.merge()) is type(vit())


def test_it_has_nothing_in_the_state():
    tuned = tune("lora")
    before = list(tuned.model.state_dict()), list(tuned.state())
    tuned.memory = "leaner"
    assert (list(tuned.model.state_dict()), list(tuned.state())) == before


def test_compiled_training_without_a_partitioner_is_exact_too():
    tuned = tune("lora")
    tuned.memory = "lean"
    stock = gradients(tuned)
    compiled = torch.compile(tuned.model, backend="eager", fullgraph=True)
    tuned.model.zero_grad(set_to_none=True)
    loss(compiled).backward()
    assert_close({n: p.grad for n, p in tuned.trainable().items() if p.grad is not None}, stock)


def test_a_model_that_cannot_recompute_blocks_is_named():
    found = tune("lora").anatomy
    object.__setattr__(found, "model", nn.Linear(1, 1))
    object.__setattr__(found, "blocks", ())
    with pytest.raises(
        UnsupportedBackboneError, match=r"Linear cannot recompute its blocks; use memory 'leaner'"
    ):
        set_memory(found, "leanest")


@pytest.mark.parametrize(("like", "pooling"), [("fast", "token"), ("stock", "avg")])
@pytest.mark.parametrize(
    "arguments",
    [{"drop_path_rate": 0.3}, {"proj_drop_rate": 0.2}, {"attn_drop_rate": 0.2}, {"pos_drop_rate": 0.2}],
    ids=lambda arguments: next(iter(arguments)),
)
@pytest.mark.parametrize("text", ["lora(dropout=0.2)", "vpt(dropout=0.3)", "adaptformer(dropout=0.3)"])
def test_leanest_in_parts_draws_the_numbers_of_the_whole_batch(
    monkeypatch, text: str, arguments: dict, like: Level, pooling: str
):
    # Where the last block runs for the class token alone, it draws fewer than stock does, as at `fast`.
    monkeypatch.setattr(blocks, "TOKENS", 1)  # each image alone
    tuned = tune(text, global_pool=pooling, **arguments)
    tuned.memory = like
    torch.manual_seed(5)
    expected, after = gradients(tuned), torch.get_rng_state()
    tuned.memory = "leanest"
    torch.manual_seed(5)
    assert_close(gradients(tuned), expected)
    assert torch.equal(torch.get_rng_state(), after)


class Noise(nn.Module):
    """Scales tokens by numbers that it draws for the positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty(x.shape[1], x.shape[0]).exponential_().t()[..., None]


def test_leanest_takes_blocks_whole_that_draw_otherwise(monkeypatch):
    monkeypatch.setattr(blocks, "TOKENS", 1)
    tuned = tune("lora(dropout=0.2)", global_pool="avg")
    for block in tuned.model.get_submodule("blocks"):
        block.norm2 = nn.Sequential(block.norm2, Noise())
    torch.manual_seed(5)
    expected, after = gradients(tuned), torch.get_rng_state()
    tuned.memory = "leanest"
    for _ in range(2):
        torch.manual_seed(5)
        assert_close(gradients(tuned), expected)
        assert torch.equal(torch.get_rng_state(), after)


def test_leanest_leaves_the_last_product_out_of_half_precision_too():
    flops = {}
    for half in (False, True):
        tuned = tune("bitfit")
        tuned.memory = "leanest"
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)

        def forward(model: nn.Module = tuned.model, autocast: torch.autocast = autocast) -> Tensor:
            with autocast:
                return loss(model)

        flops[half] = count_flops(lambda forward=forward: forward().backward())
    assert flops[True] == flops[False]


@pytest.mark.parametrize("arguments", [{}, {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}], ids=str)
@pytest.mark.parametrize(("text", "read", "attended"), [("bitfit", 0, 0), ("full", 0, 0), ("ssf", 1, 1)])
def test_leanest_does_not_run_the_last_product_again(text: str, read: int, attended: int, arguments: dict):
    """A block's MLP ends in a product that nobody reads in the backward pass, unless something behind it does; SSF
    does, and it attends once more for its scales at any level."""
    tuned = tune(text, **arguments)
    flops = {}
    for level in ("fast", "leanest"):
        tuned.memory = level
        flops[level] = count_flops(lambda: loss(tuned.model).backward())
    # Beyond what `fast` does again: attention everywhere, and qkv in the last block, which goes on with one token.
    last = 4 * read
    products = (DEPTH - 1) * TOKENS * (3 + 1 + 4 + last) + (1 + 4 + last)
    attention = attended * (DEPTH - 1) * 4 * BATCH * TOKENS**2 * WIDTH
    assert flops["leanest"] - flops["fast"] == 2 * BATCH * WIDTH**2 * products + attention


@pytest.mark.parametrize(
    "text",
    ["sct(channels=4)", "adapter(dropout=0.0)", "ssf", "lora(roles=all-linear)", "adaptformer(dropout=0.0)"],
)
@pytest.mark.parametrize("arguments", [{"init_values": 0.3}, {"global_pool": "avg"}])
def test_leanest_where_the_last_product_is_read_after_all(text: str, arguments: dict):
    tuned = tune(text, **arguments)
    stock = gradients(tuned)
    tuned.memory = "leanest"
    assert_close(gradients(tuned), stock)


@pytest.mark.parametrize("arguments", [{}, {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}], ids=str)
def test_leanest_works_on_a_part_of_the_batch_at_a_time(monkeypatch, arguments: dict):
    monkeypatch.setattr(blocks, "TOKENS", 2 * TOKENS)

    def peak(level) -> int:
        tuned = tune("bitfit", depth=8, **arguments)
        tuned.memory = level
        images = torch.randn(16, 3, 32, 32)
        forward = lambda model: model(images).square().sum()  # noqa: E731
        return live_bytes(tuned.model, forward, ignore=[images]).peak

    # Eight inputs of blocks, and far from a whole block's ten more.
    nd = 16 * TOKENS * WIDTH * 4
    assert peak("leanest") < 16 * nd < peak("leaner")

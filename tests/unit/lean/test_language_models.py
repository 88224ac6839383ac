"""Memory levels on a LLaMA: gradients of stock autograd bit for bit, and what a block keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitune
from vitune.lean import LEVELS, Level
from vitune.measure import live_bytes, saved_activation_bytes
from vitune.methods import parse

transformers: Any = pytest.importorskip("transformers")

WIDTH, HIDDEN, BATCH, LENGTH, HEADS = 32, 96, 4, 16, 4
TOKENS = torch.randint(1, 40, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
METHODS = ["full", "lora", "lora(roles=all-linear)", "ssf", "lora(roles=all-linear),velora(num_groups=4)"]
METHODS += ["full,velora(roles=attn.v+mlp.out,num_groups=4)"]


def tune(text: str, depth: int = 2, **settings: Any) -> vitune.Tuned:
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        **settings,
    )
    torch.manual_seed(0)
    tuned = vitune.apply(transformers.LlamaForCausalLM(config).train(), parse(text))
    for parameter in tuned.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return tuned


def loss(model: nn.Module) -> Tensor:
    return model(input_ids=TOKENS, labels=TOKENS).loss


def gradients(tuned: vitune.Tuned) -> dict[str, Tensor]:
    tuned.model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    loss(tuned.model).backward()
    return {name: p.grad.clone() for name, p in tuned.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "stock"])
@pytest.mark.parametrize("text", METHODS)
def test_gradients_are_those_of_stock_autograd_bit_for_bit(text: str, level: Level):
    tuned = tune(text)
    stock = gradients(tuned)
    tuned.memory = level
    ours = gradients(tuned)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], gradient) for name, gradient in stock.items())


@pytest.mark.parametrize("text", ["full", "lora(dropout=0.1)"])
@pytest.mark.parametrize("level", ["fast", "leanest"])
def test_with_dropout_in_attention(text: str, level: Level):
    tuned = tune(text, attention_dropout=0.2)
    stock = gradients(tuned)
    tuned.memory = level
    for name, gradient in gradients(tuned).items():
        scale = 1e-5 * stock[name].abs().max().item()
        torch.testing.assert_close(gradient, stock[name], rtol=0, atol=scale, msg=name)


def test_a_cache_that_is_asked_for_is_filled_once():
    tuned = tune("full")
    tuned.memory = "leanest"
    output = tuned.model(TOKENS, labels=TOKENS, use_cache=True)
    output.loss.backward()
    assert output.past_key_values.get_seq_length() == LENGTH
    assert tuned.model(TOKENS, labels=TOKENS).past_key_values is None


# In activations of the residual stream: two inputs of norms, queries, keys and values, gate and what it lets through.
WIDE = HIDDEN / WIDTH
KEPT = {
    ("full", "stock"): 10 + 4 * WIDE,
    ("full", "fast"): 5 + 2 * WIDE,
    ("full", "lean"): 5,
    ("full", "leaner"): 2,
    ("full", "leanest"): 1,
}


@pytest.mark.parametrize(("text", "level"), KEPT)
def test_a_block_keeps_what_the_formula_says(text: str, level: Level):
    def saved(depth: int) -> int:
        tuned = tune(text, depth)
        tuned.memory = level
        found = saved_activation_bytes(tuned.model, loss, ignore=[TOKENS]).bytes
        assert (
            0 <= live_bytes(tuned.model, loss, ignore=[TOKENS], backward=False).after_forward - found < 40_000
        )
        return found

    one_more = (saved(3) - saved(2)) / (BATCH * LENGTH * 4)
    statistics = 0 if level == "leanest" else 2 + HEADS  # of two norms and the attention
    assert one_more == KEPT[text, level] * WIDTH + statistics

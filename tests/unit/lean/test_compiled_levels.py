"""Levels under torch.compile: gradients of the stock model, and no more kept per block than in eager mode."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitune
from vitune.lean import Level
from vitune.measure import saved_activation_bytes
from vitune.methods import parse

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tune(text: str, depth: int, **arguments: Any) -> vitune.Tuned:
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "num_heads": 4, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", depth=depth, **small, **arguments).train()
    tuned = vitune.apply(model, parse(text), check=False)
    for parameter in tuned.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return tuned


def loss(model: nn.Module) -> Tensor:
    torch.manual_seed(3)
    return nn.functional.cross_entropy(model(IMAGES), torch.tensor([0, 2]))


def gradients(tuned: vitune.Tuned) -> dict[str, Tensor]:
    """Of two accumulated passes."""
    tuned.model.zero_grad(set_to_none=True)
    for _ in range(2):
        loss(tuned.model).backward()
    return {name: p.grad.clone() for name, p in tuned.trainable().items() if p.grad is not None}


def saved(tuned: vitune.Tuned) -> int:
    return saved_activation_bytes(tuned.model, loss, ignore=[IMAGES]).bytes


DROPPING = {"init_values": 0.1, "drop_path_rate": 0.1, "proj_drop_rate": 0.1}


@pytest.mark.parametrize(
    ("text", "level", "arguments"),
    [("full", "fast", DROPPING), ("lora", "fast", {}), ("lora", "leaner", {}), ("ssf", "lean", {})],
)
def test_compiled_steps_are_exact_and_keep_what_the_level_says(
    text: str, level: Level, arguments: dict[str, Any]
):
    kept: dict[bool, list[int]] = {False: [], True: []}
    for depth in (1, 2):
        tuned = tune(text, depth, **arguments)
        stock = gradients(tuned) if depth == 1 else {}
        tuned.memory = level
        kept[False].append(saved(tuned))
        tuned.model.compile(backend="aot_eager", fullgraph=True)
        kept[True].append(saved(tuned))
        if depth == 1:
            for name, gradient in gradients(tuned).items():
                scale = 1e-5 * stock[name].abs().max().item() + 1e-7
                torch.testing.assert_close(gradient, stock[name], rtol=0, atol=scale, msg=name)
        torch._dynamo.reset()
    eager, compiled = (last - first for first, last in kept.values())
    # What a compiled step keeps more: of SSF an activation of the stream, of LoRA the ups of q and v as one matrix.
    more = {"ssf": IMAGES.shape[0] * 65 * 64 * 4, "lora": 3 * 64 * 2 * 8 * 4}
    assert compiled <= 1.02 * eager + more.get(text, 0)


def test_what_learns_from_a_forward_pass_is_left_to_the_compiler():
    tuned = tune("velora(sub_token_size=8)", 1)
    tuned.memory = "fast"
    assert tuned.model.get_submodule("vitune.memory").traced is None
    tuned.model.compile(backend="aot_eager", fullgraph=True)
    assert gradients(tuned).keys() == tuned.trainable().keys()

"""What torch.compile sees of edits."""

from __future__ import annotations

import pytest
import timm
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import vitune


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def model(depth: int):
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        mlp_ratio=1.0,
        num_classes=2,
    ).eval()


@pytest.mark.parametrize("method", [vitune.SSF(), vitune.AdaptFormer(bottleneck=2)])
def test_an_edit_after_compiling_is_seen(method):
    plain = model(1)
    block = plain.blocks[0]
    block.compile(backend="eager", fullgraph=True)
    x = torch.randn(1, 5, 16)
    with torch.no_grad():
        before = block(x)
        tuned = vitune.apply(plain, method)
        for parameter in tuned.parameters():
            parameter.add_(0.1)
        after = block(x)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, type(block).forward(block, x))
        tuned.detach()
        torch.testing.assert_close(block(x), before)


@pytest.mark.parametrize("text", ["ssf", "lora", "adaptformer(bottleneck=2)", "lora,ssf"])
def test_twelve_equal_blocks_are_one_graph(text):
    tuned = vitune.apply(model(12), vitune.methods.parse(text))
    counter = CompileCounter()
    for block in tuned.model.blocks:
        block.compile(backend=counter, fullgraph=True)
    # The first block's input needs no gradient where nothing before it trains; then all are alike.
    tuned.model.blocks[0](torch.randn(1, 5, 16, requires_grad=True))
    assert counter.frame_count == 1
    for block in tuned.model.blocks:
        block(torch.randn(1, 5, 16, requires_grad=True))
    assert counter.frame_count == 1
    assert not counters["recompile_limit"]

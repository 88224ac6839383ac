"""Bi-AdaptFormer and Bi-LoRA: start, placement, the 1-bit head, merging, costs, refusals."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from tests.contract.cases import loss_of, randomise, tune
from tests.contract.families import backbone, images
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.adapters import merge
from vitune.anatomy import logits
from vitune.errors import CompositionError, ConfigError, SurgeryError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import get_method, parse
from vitune.ops.quantiser import quantisers

NAN = float("nan")


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (vitune.BiLoRA, {"bits": 3}, "bi_lora: bits must be 1, 2, 4, 8 or 32, not 3."),
        (vitune.BiLoRA, {"rank": 0}, "bi_lora: rank must be at least 1, not 0."),
        (vitune.BiLoRA, {"roles": ()}, "bi_lora: roles must be at least one role, not ()."),
        (vitune.BiLoRA, {"scale": NAN}, "bi_lora: scale must be a finite number, not nan."),
        (vitune.BiAdaptFormer, {"bottleneck": 0}, "bi_adaptformer: bottleneck must be at least 1, not 0."),
        (vitune.BiAdaptFormer, {"dropout": 1.0}, "bi_adaptformer: dropout must be in [0, 1), not 1.0."),
        (
            vitune.BiAdaptFormer,
            {"codebook": "x"},
            "bi_adaptformer: codebook must be 'reference' or 'converged', not 'x'.",
        ),
    ],
)
def test_out_of_range(method, settings, message):
    with pytest.raises(ConfigError) as caught:
        method(**settings)
    assert str(caught.value) == message


def test_names_may_have_a_hyphen():
    assert get_method("bi-lora") is vitune.BiLoRA
    assert parse("bi-adaptformer(bits=2)") == (vitune.BiAdaptFormer(bits=2),)


def test_start_of_the_latent_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = vitune.BiAdaptFormer()
        down, up = method.matrix(256, 768, down=True).weight, method.matrix(768, 256, down=False).weight
    bound = 1 / math.sqrt(768)
    assert down.abs().max() <= bound
    assert down.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert up.abs().max() <= 0.002
    assert up.std().item() == pytest.approx(0.00088, rel=0.01)


@pytest.mark.parametrize("name", ["bi_lora", "bi_adaptformer"])
def test_in_full_precision_it_starts_as_the_plain_model(name):
    tuned = tune(f"{name}(bits=32)", "plain")
    assert parse(f"{name}(bits=32)")[0].starts_at_identity
    assert not quantisers(tuned.model)
    tuned.model.eval()
    with torch.no_grad():
        assert torch.equal(tuned(images("plain")), logits(backbone("plain").eval(), images("plain")))


def test_two_levels_per_matrix():
    tuned = randomise(tune("bi_lora(rank=4)", "plain"))
    for name, quantiser in quantisers(tuned.model).items():
        weight = quantiser(tuned.model.get_parameter(name))
        assert weight.unique().numel() == 2, name


def test_the_branch_reads_the_stream_and_has_no_drop_path():
    tuned = randomise(tune("bi_adaptformer(bottleneck=4,scale=0.5,dropout=0)", "plain"))
    model = tuned.model.eval()
    block: nn.Module = model.blocks[0]
    x = torch.randn(2, 5, 32)
    layer = block.vitune.points.mlp_beside.bi_adaptformer
    with torch.no_grad():
        h = x + block.attn(block.norm1(x))
        branch = 0.5 * F.relu(h @ layer.down().T) @ layer.up().T
        torch.testing.assert_close(block(x), h + block.mlp(block.norm2(h)) + branch)


def test_dropout_lies_between_the_projections():
    tuned = randomise(tune("bi_lora(rank=2,dropout=0.5)", "plain"))
    layer = tuned.model.blocks[0].attn.qkv.vitune.bi_lora
    x, y = torch.randn(64, 32), torch.zeros(64, 96)
    layer.train()
    with torch.no_grad():
        torch.manual_seed(0)
        latent = F.dropout(F.linear(x, torch.cat([layer.q.down(), layer.v.down()])), 0.5)
        torch.manual_seed(0)
        found = layer(x, y)
        torch.testing.assert_close(found[:, :32], latent[:, :2] @ layer.q.up().T)
        torch.testing.assert_close(found[:, 64:], latent[:, 2:] @ layer.v.up().T)
        assert not found[:, 32:64].any()


# The 1-bit head.


def test_the_head_has_one_bit_whatever_the_adapters_have():
    tuned = randomise(tune("bi_lora(rank=2,bits=8,binary_head=true)", "plain"))
    found = quantisers(tuned.model)
    assert {name: q.bits for name, q in found.items() if q.bits == 1} == {"head.weight": 1}
    assert len(found) == 1 + 2 * 2 * len(tuned.anatomy.blocks)
    assert tuned.model.head(torch.eye(32)).unique().numel() == 2


def test_the_bias_of_the_head_rests_and_is_no_part_of_the_adapter():
    tuned = tune("bi_lora(rank=2,binary_head=true)", "plain")
    model = tuned.model.eval()
    assert "head.bias" not in tuned.trainable()
    assert "head.weight" in tuned.trainable()
    assert tuned.costs().head_parameters == model.head.weight.numel()
    with torch.no_grad():
        before = tuned(images("plain"))
        model.head.bias.add_(1.0)
        assert torch.equal(tuned(images("plain")), before)


@pytest.mark.parametrize("family", ["distilled", "hf"])
def test_every_kind_of_head(family):
    tuned = randomise(tune("bi_adaptformer(bottleneck=2,binary_head=true)", family))
    heads = tuned.anatomy.head
    assert sum(name.startswith(heads) for name in quantisers(tuned.model)) == len(heads)
    loss_of(tuned, images(family)).backward()
    assert all(p.grad is not None for p in tuned.parameters())
    tuned.detach()
    assert not any(".vitune." in name for name, _ in tuned.model.named_modules())


def test_no_head():
    message = "bi_lora: binary_head needs a head and the model has none; create it with num_classes above 0."
    with pytest.raises(UnsupportedBackboneError) as caught:
        tune("bi_lora(binary_head=true)", "hf_features")
    assert str(caught.value) == message


def test_two_binary_heads_are_one_too_many():
    with pytest.raises(SurgeryError, match="head: 'binary_head' is there already"):
        tune("bi_lora(binary_head=true),bi_adaptformer(binary_head=true)", "plain")


# Together with others, merging.


@pytest.mark.parametrize(("one", "other"), [("lora", "bi_lora"), ("bi_adaptformer", "adaptformer")])
def test_not_with_its_own_kind(one, other):
    with pytest.raises(CompositionError, match=f"'{one}' and '{other}' cannot be combined: both"):
        tune(f"{one},{other}", "plain")


def test_merged_weights_are_the_rounded_ones():
    plain = backbone("plain").blocks[0].attn.qkv.weight.detach().clone()
    tuned = randomise(tune("bi_lora(rank=2,scale=3.0,binary_head=true)", "plain"))
    tuned.model.eval()
    layer = tuned.model.blocks[0].attn.qkv.vitune.bi_lora
    with torch.no_grad():
        q, v = (3.0 * part.up() @ part.down() for part in (layer.q, layer.v))
        expected = tuned(images("plain"))
    model = merge(tuned)
    assert not model.head.bias.any()
    assert model.head.weight.unique().numel() == 2
    change = model.blocks[0].attn.qkv.weight - plain
    torch.testing.assert_close(change, torch.cat([q, torch.zeros_like(q), v]), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits(model, images("plain")), expected, rtol=1e-5, atol=1e-5)


def test_a_loaded_model_merges_too(tmp_path):
    tuned = randomise(tune("bi_lora(rank=2),ssf", "plain"))
    tuned.model.eval()
    tuned.save(tmp_path)
    with torch.no_grad():
        expected = tuned(images("plain"))
        model = vitune.load(tmp_path, model=backbone("plain")).merge()
        torch.testing.assert_close(logits(model, images("plain")), expected, rtol=1e-5, atol=1e-5)


def test_under_autocast_the_rounding_stays_in_float32():
    tuned = randomise(tune("bi_adaptformer(bottleneck=4,dropout=0)", "plain"))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(tuned, images("plain"))
    loss.backward()
    torch.testing.assert_close(loss, loss_of(tuned, images("plain")), rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in tuned.parameters())


# Costs, exactly.


def saved_bytes(text: str) -> int:
    with torch.device("meta"):
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=3
        )
    vitune.apply(model, parse(text), check=False)

    def loss(net: nn.Module) -> Tensor:
        return net(torch.zeros(4, 3, 32, 32)).sum()

    with weightless_copy(model) as twin:
        return saved_activation_bytes(twin.train(), loss).bytes


def test_rounding_keeps_the_rounded_weights_and_two_numbers_of_each():
    matrix = 4 * 4 * 32
    plain = saved_bytes("adaptformer(bottleneck=4,bias=false,dropout=0)")
    # The down projection of the first block has no gradient for its input, so that its weights are not kept.
    assert saved_bytes("bi_adaptformer(bottleneck=4,dropout=0)") == plain + 3 * matrix + 4 * 8
    assert saved_bytes("bi_adaptformer(bottleneck=4,bits=8,dropout=0)") == plain + 3 * matrix + 4 * 8


def test_bi_lora_keeps_what_lora_keeps_its_rounded_ups_and_two_numbers_of_each_matrix():
    rounded = 4 * 4 * 32  # those of down are stacked, and LoRA keeps its stack too
    assert saved_bytes("bi_lora(rank=4,dropout=0)") == saved_bytes("lora(rank=4)") + 4 * rounded + 8 * 8

from __future__ import annotations

import pytest
import torch
from tests.unit.surgery.backbone import small
from timm.layers import Attention
from torch import Tensor
from torch.nn import functional as F

import vitune
from vitune.anatomy import anatomy
from vitune.errors import SurgeryError
from vitune.surgery import gate


class DeafAttention(Attention):
    """As timm's BEiT and EVA: reads the weights of qkv, never calls it."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        batch, tokens, width = x.shape
        qkv = F.linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = qkv.reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        )


def deaf():
    model = small()
    for block in model.blocks:
        block.attn.__class__ = DeafAttention
    return model


def test_layers_that_the_model_never_calls_are_found():
    model = deaf()
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(
        SurgeryError,
        match=r"8 of 10 trained tensors get no gradient in VisionTransformer "
        r"\(blocks.0.attn.qkv.vitune.lora.q.down, .* \.\.\.\): the model does not call these layers",
    ):
        vitune.apply(model, vitune.LoRA())
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_layers_of_such_a_model_can_be_edited():
    tuned = vitune.apply(deaf(), vitune.LoRA(roles=("attn.out", "mlp.in")))
    assert len(tuned.trainable()) == 10


def test_without_the_check_nothing_is_found():
    assert len(vitune.apply(deaf(), vitune.LoRA(), check=False).trainable()) == 10


def test_a_model_through_which_no_gradient_flows_is_found():
    model = small()
    model.forward = torch.no_grad()(model.forward)
    with pytest.raises(SurgeryError, match="2 of 2 trained tensors get no gradient"):
        gate(anatomy(model), {"head.weight": model.head.weight, "head.bias": model.head.bias})


def test_the_gate_leaves_no_trace():
    model = small()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    trained = dict(model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.random.get_rng_state()
    gate(anatomy(model), trained)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_modes_come_back_after_a_failure():
    model = small()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    model.patch_embed.forward = None  # called, it fails
    with pytest.raises(TypeError):
        gate(anatomy(model), dict(model.named_parameters()))
    assert [module.training for module in model.modules()] == modes

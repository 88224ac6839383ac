import timm
import torch
from torch import nn
from torch.nn import functional as F

from vitune.measure import live_bytes, saved_activation_bytes, weightless_copy


class Hides(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.clone()  # the mistake that the hooks cannot see
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def test_live_storages_find_what_hooks_cannot():
    model = nn.Linear(6, 6)

    def loss(m: nn.Module) -> torch.Tensor:
        return Hides.apply(m(torch.ones(5, 6))).sum()  # type: ignore[union-attr]

    assert saved_activation_bytes(model, loss).bytes == 120
    assert live_bytes(model, loss).after_forward == 120 + 120 + 4  # the input, the hidden clone, the loss


def test_both_counts_agree_on_a_vit_and_the_peak_holds_the_gradients():
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=7, img_size=32, depth=2, embed_dim=48, num_heads=3
    )

    def loss(m: nn.Module) -> torch.Tensor:
        return F.cross_entropy(m(torch.zeros(4, 3, 32, 32)), torch.zeros(4, dtype=torch.long))

    with weightless_copy(model) as twin:
        live, saved = live_bytes(twin, loss), saved_activation_bytes(twin, loss)
    assert live.after_forward == saved.bytes + 4  # the loss itself
    assert live_bytes(model, loss).after_forward == live.after_forward
    gradients = sum(p.numel() * 4 for p in model.parameters())
    assert max(gradients, saved.bytes) <= live.peak <= gradients + 2 * saved.bytes


def test_what_only_a_reference_cycle_holds_is_not_kept():
    def loss(m: nn.Module) -> torch.Tensor:
        cycle: list = [torch.ones(1000)]
        cycle.append(cycle)
        return m(torch.ones(5, 6)).sum()

    assert live_bytes(nn.Linear(6, 6), loss).after_forward == 120 + 4


def test_forward_only_peak_and_ignored_inputs():
    x = torch.ones(5, 6)
    live = live_bytes(nn.Linear(6, 6), lambda m: m(x).sum(), backward=False, ignore=[x])
    assert (live.after_forward, live.peak) == (4, 124)  # the loss; the output lives until it is summed


def test_a_loss_without_gradient_has_no_backward():
    model = nn.Linear(6, 6).requires_grad_(False)
    assert live_bytes(model, lambda m: m(torch.ones(5, 6)).sum()).after_forward == 4

import pytest
import timm
import torch
from torch import nn

from vitune.errors import ConfigError
from vitune.measure import forecast_memory, forecast_peak, live_bytes, saved_activation_bytes


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Linear(10, 7))
    model[1].requires_grad_(False)
    return model


def test_four_parts_and_their_sum():
    forecast = forecast_memory(net(), (5, 3, 4, 4))
    weights, trained = (48 * 10 + 10 + 77) * 4, 77 * 4
    hidden = 5 * 10 * 4
    loss = 5 * 7 * 4 + 5 * 8 + 4  # log-probabilities, targets, total weight
    assert forecast.as_dict() == {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "saved_activations": hidden + loss,
    }
    assert forecast.total == weights + 3 * trained + hidden + loss
    assert forecast_memory(net(), (5, 3, 4, 4), optimizer="sgd").optimizer == trained


def test_own_loss():
    forecast = forecast_memory(net(), (5, 3, 4, 4), loss=lambda logits, targets: logits.sum())
    assert forecast.saved_activations == 5 * 10 * 4


def test_autocast_keeps_half_and_needs_no_real_run():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=100)
    full = forecast_memory(model, (8, 3, 224, 224), precision="fp32")
    half = forecast_memory(model, (8, 3, 224, 224), precision="bf16")
    assert round(full.saved_activations / 2**20, 2) == 229.05
    assert round(half.saved_activations / 2**20, 1) == 139.1
    assert half.weights == full.weights


def test_the_forecast_leaves_mode_and_buffers_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).eval()
    before = model[1].running_mean.clone()
    forecast_memory(model, (2, 3, 4, 4))
    assert not model.training
    assert torch.equal(model[1].running_mean, before)
    assert all(p.grad is None for p in model.parameters())


def test_training_mode_is_what_is_forecast():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.Dropout(0.5), nn.Linear(10, 7))
    training = forecast_memory(model.train(), (5, 3, 4, 4))
    assert forecast_memory(model.eval(), (5, 3, 4, 4)) == training
    model[2].p = 0.0
    assert forecast_memory(model, (5, 3, 4, 4)).saved_activations < training.saved_activations


def test_the_forecast_equals_the_count_of_a_real_run():
    model = net().train()
    real = saved_activation_bytes(
        model,
        lambda m: nn.functional.cross_entropy(m(torch.zeros(5, 3, 4, 4)), torch.zeros(5, dtype=torch.long)),
    )
    assert forecast_memory(model, (5, 3, 4, 4)).saved_activations == real.bytes


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; use one of adamw, sgd"),
        ({"precision": "half"}, "unknown precision 'half'; use one of fp32, bf16, fp16"),
        ({"batch_shape": (3, 4, 4)}, r"must be \(images, channels, height, width\), got \(3, 4, 4\)"),
    ],
)
def test_wrong_settings(settings: dict, text: str):
    with pytest.raises(ConfigError, match=text):
        forecast_memory(net(), **{"batch_shape": (5, 3, 4, 4), **settings})


@pytest.mark.parametrize("first_trains", [True, False])
def test_the_peak_counts_the_batch_all_along(first_trains: bool):
    """Also where nothing in the model keeps it."""
    model = nn.Sequential(nn.Conv2d(3, 2, 2, 2), nn.Flatten(), nn.Linear(8, 60), nn.ReLU(), nn.Linear(60, 7))
    model[0].requires_grad_(first_trains)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    images, targets = torch.zeros(5, 3, 4, 4), torch.zeros(5, dtype=torch.long)
    step = live_bytes(
        model, lambda m: nn.functional.cross_entropy(m(images), targets), ignore=[images, targets]
    )
    weights = sum(p.nbytes for p in model.parameters())
    expected = weights + trained + step.peak + images.nbytes + targets.nbytes
    assert forecast_peak(model, (5, 3, 4, 4), optimizer="sgd") == expected

import pytest
import torch
from torch import nn

from vitune.errors import ConfigError
from vitune.measure import GroupCount, count_parameters


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 5, bias=False)))
    net[0].requires_grad_(False)
    return net


def test_totals_bytes_and_groups():
    count = count_parameters(model())
    assert (count.total, count.trained, count.frozen) == (16 + 8 + 20, 28, 16)
    assert (count.bytes, count.trained_bytes) == (44 * 4, 28 * 4)
    assert count.buffer_bytes == 4 * 4 + 4 * 4 + 8  # running mean, running variance, int64 counter
    assert count.groups == {"0": GroupCount(16, 0), "1": GroupCount(8, 8), "2": GroupCount(20, 20)}
    assert count.trained_share == pytest.approx(28 / 44)


def test_depth_gives_finer_groups():
    assert list(count_parameters(model(), depth=2).groups) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "2.0",
    ]


def test_a_shared_parameter_counts_once_and_half_precision_counts_half():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).to(torch.bfloat16)
    net[1].weight = net[0].weight
    count = count_parameters(net)
    assert (count.total, count.bytes) == (9, 18)


def test_a_model_without_parameters():
    assert count_parameters(nn.ReLU()).trained_share == 0.0


def test_depth_below_one_is_refused():
    with pytest.raises(ConfigError, match="depth must be at least 1, got 0"):
        count_parameters(model(), depth=0)

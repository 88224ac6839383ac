import pytest
import torch
from torch import nn

from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.measure import weightless_copy


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y * 2 if y.sum().item() > 0 else y


class ChoosesRows(ReadsValues):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x[:, 0] > 0]


def test_the_copy_keeps_keys_types_flags_and_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with weightless_copy(model) as twin:
        assert [(n, p.requires_grad, p.grad) for n, p in twin.named_parameters()] == [
            (n, p.requires_grad, None) for n, p in model.named_parameters()
        ]
        out = twin(torch.zeros(8, 3))
        assert (tuple(out.shape), out.device.type) == ((8, 4), "cpu")
        out.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model[0].bias.grad, torch.ones(4))
    assert model[1].weight.grad is None


def test_a_meta_model_says_cpu_and_shares_what_it_shared():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with weightless_copy(model) as twin:
        assert {p.device.type for p in twin.parameters()} == {"cpu"}
        assert twin[1].weight is twin[0].weight
        assert isinstance(twin[0].weight, nn.Parameter)


def test_a_huge_model_costs_nothing():
    with torch.device("meta"):
        model = nn.Linear(10**6, 10**6)
    with weightless_copy(model) as twin:
        assert twin(torch.zeros(2, 10**6)).shape == (2, 10**6)


@pytest.mark.parametrize("kind", [ReadsValues, ChoosesRows])
def test_a_forward_that_reads_values_is_refused_by_name(kind: type[nn.Module]):
    with (
        pytest.raises(
            UnsupportedBackboneError, match=f"{kind.__name__} cannot be measured without running it"
        ),
        weightless_copy(kind()) as twin,
    ):
        twin(torch.zeros(2, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_cannot_be_guessed():
    with (
        pytest.raises(ConfigError, match="can only be counted where there is a CUDA device"),
        weightless_copy(nn.Linear(2, 2), device="cuda"),
    ):
        pass

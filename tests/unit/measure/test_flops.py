from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.measure import count_flops, count_model_flops


def test_a_product_in_both_conventions():
    a, b = torch.zeros(4, 5), torch.zeros(5, 6)
    assert count_flops(lambda: a @ b) == 2 * 4 * 5 * 6
    assert count_flops(lambda: a @ b, convention="MAC") == 4 * 5 * 6


def test_in_place_products_count():
    a, b, c = torch.zeros(4, 5), torch.zeros(5, 6), torch.zeros(4, 6)
    assert count_flops(lambda: c.addmm_(a, b)) == 240
    assert count_flops(lambda: torch.mm(a, b, out=c)) == 240
    batched = torch.zeros(3, 4, 6)
    assert count_flops(lambda: batched.baddbmm_(a.expand(3, 4, 5), b.expand(3, 5, 6))) == 720


def test_backward_counts_what_trains():
    layer = nn.Linear(5, 6)
    x = torch.zeros(4, 5)
    assert (
        count_flops(lambda: layer(x).sum().backward()) == 2 * 240
    )  # forward and weight gradient; x needs none


def test_known_numbers_of_a_vit():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=100)
    count = count_model_flops(model, (3, 224, 224))
    assert (count.forward, count.step) == (2_507_020_800, 7_642_091_520)
    model.requires_grad_(False)
    assert count_model_flops(model, (3, 224, 224)).backward == 0
    assert count_model_flops(model, (3, 224, 224), convention="MAC").forward == 1_253_510_400
    assert count_model_flops(model, (3, 224, 224), training=False).step == 2_507_020_800


class Classifier(nn.Module):
    def __init__(self, answer) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 4 * 4, 7)
        self.answer = answer

    def forward(self, images: torch.Tensor):
        return self.answer(self.layer(images.flatten(1)))


def test_models_that_return_an_object_with_logits():
    count = count_model_flops(Classifier(lambda y: SimpleNamespace(logits=y)), (3, 4, 4))
    assert (count.forward, count.backward) == (2 * 48 * 7, 2 * 48 * 7)


def test_what_has_no_logits_is_refused():
    with pytest.raises(
        UnsupportedBackboneError, match="returned dict, where a tensor or an object with `logits`"
    ):
        count_model_flops(Classifier(lambda y: {"y": y}), (3, 4, 4))


def test_unknown_convention():
    with pytest.raises(ConfigError, match="unknown convention 'mac'; use '2xMAC' or 'MAC'"):
        count_flops(lambda: None, convention="mac")  # type: ignore[arg-type]

"""Backbones that are refused, by name and with the reason."""

from __future__ import annotations

import re
import sys

import pytest
import timm
import torch

import vitune
from vitune.anatomy import anatomy
from vitune.anatomy._refused import REFUSED
from vitune.errors import UnsupportedBackboneError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cait_xxs24_224", "Cait is not supported: its talking heads mix attention across heads"),
        ("xcit_nano_12_p16_224", "Xcit is not supported: its attention runs across channels"),
        ("hiera_tiny_224", "Hiera is not supported: its tokens are reordered into mask units"),
        ("mvitv2_tiny", "MultiScaleVit is not supported: its attention pools keys and values"),
        ("twins_pcpvt_small", "Twins is not supported: its blocks alternate kinds of attention"),
        ("maxvit_pico_rw_256", "MaxxVit is not supported: its stages mix convolutions and attention"),
    ],
)
def test_refused_by_name_with_the_reason(name, reason):
    with torch.device("meta"):
        model = timm.create_model(name)
    before = list(model.state_dict())
    with pytest.raises(UnsupportedBackboneError, match=re.escape(reason)):
        vitune.apply(model, vitune.LoRA())
    assert list(model.state_dict()) == before


def test_masked_autoencoders_are_refused():
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with pytest.raises(
        UnsupportedBackboneError, match="ViTMAEModel is not supported: its forward hides random"
    ):
        anatomy(transformers.ViTMAEModel(transformers.ViTMAEConfig(**small)))


def test_every_refused_name_is_a_real_class():
    transformers = pytest.importorskip("transformers")
    modules = [module for key, module in sys.modules.items() if key.startswith("timm.models.")]
    known = {name for module in modules for name in vars(module)}
    assert not [name for name in REFUSED if name not in known and not hasattr(transformers, name)]

"""Backbones of timm and transformers, and the built-in one: importing this package registers it with timm."""

from vitune.backbones import as_mlp as as_mlp  # registers its models with timm
from vitune.backbones.card import BUILT_IN, Card, read_card
from vitune.backbones.create import create
from vitune.backbones.describe import describe_source, rebuild, set_source
from vitune.backbones.source import BackboneSource

__all__ = [
    "BUILT_IN",
    "BackboneSource",
    "Card",
    "create",
    "describe_source",
    "read_card",
    "rebuild",
    "set_source",
]

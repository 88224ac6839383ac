"""Adapter: its settings and the names of its tensors in the references."""

from __future__ import annotations

from typing import Any

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden

ACTIVATIONS: dict[str, Any] = {"gelu_exact": "gelu", "quickgelu": "quick_gelu"}


def case(golden: Golden) -> Case:
    hyperparameters: dict[str, Any] = golden.hyperparameters
    activation = str(hyperparameters.get("activation", "gelu")).lower()
    bottleneck = hyperparameters.get("bottleneck", hyperparameters.get("dim"))
    if bottleneck is None:
        bottleneck = golden.backbone["embed_dim"] // hyperparameters["reduction_factor"]
    method = vitune.Adapter(
        bottleneck=bottleneck,
        placement=hyperparameters.get("style", hyperparameters.get("placement", "pfeiffer")),
        activation=ACTIVATIONS.get(activation, activation),
        scale=float(hyperparameters.get("scale", 1.0)),
        dropout=hyperparameters.get("dropout", 0.0),
    )
    after_mlp = r"\1.vitune.points.mlp_output.adapter"
    after_attention = r"\1.vitune.points.attn_output.adapter"
    return Case(
        method,
        substitution(
            (r"(blocks\.\d+)\.adapter_(down|up)sample_attn\.(weight|bias)", after_attention + r".\2.\3"),
            (r"(blocks\.\d+)\.attn\.adapter_(down|up)sample\.(weight|bias)", after_attention + r".\2.\3"),
            (r"(blocks\.\d+)\.adapter_attn\.adapter_(down|up)\.(weight|bias)", after_attention + r".\2.\3"),
            (r"(blocks\.\d+)\.adapter(?:_mlp)?\.adapter_(down|up)\.(weight|bias)", after_mlp + r".\2.\3"),
            (r"(blocks\.\d+)\.adapter_(down|up)sample(?:_mlp)?\.(weight|bias)", after_mlp + r".\2.\3"),
        ),
    )

"""AdaptFormer: its settings and the names of its tensors in the references."""

from __future__ import annotations

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden


def case(golden: Golden) -> Case:
    hyperparameters = golden.hyperparameters
    scale = hyperparameters.get("scalar", hyperparameters.get("scale"))
    method = vitune.AdaptFormer(
        bottleneck=hyperparameters.get("bottleneck", hyperparameters.get("dim")),
        placement=hyperparameters.get("option", "parallel"),
        scale="learnable" if scale == "learnable_scalar" else float(scale),
        layernorm=hyperparameters.get("layernorm", "none"),
        bias=hyperparameters["adapter_bias"],
        dropout=hyperparameters.get("dropout", 0.0),
    )
    point = "mlp_beside" if method.placement == "parallel" else "mlp_output"
    ours = rf"\1.vitune.points.{point}.adaptformer"
    norm = f"norm_{method.layernorm}"
    return Case(
        method,
        substitution(
            (r"(blocks\.\d+)\.adapter_mlp\.adapter_(down|up)\.(weight|bias)", ours + r".\2.\3"),
            (r"(blocks\.\d+)\.adaptmlp\.(down|up)_proj\.(weight|bias)", ours + r".\2.\3"),
            (r"(blocks\.\d+)\.adaptmlp\.scale", ours + ".scale"),
            (r"(blocks\.\d+)\.adaptmlp\.adapter_layer_norm\w*\.(weight|bias)", ours + rf".{norm}.\2"),
        ),
    )

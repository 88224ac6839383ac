"""Roles of the layers in transformers' causal language models, for what acts on linear layers of any model by name.

No anatomy: vitune tunes and measures image models; a language model has no image to check an edit with.
"""

from __future__ import annotations

import re

from torch import nn

# Class name in transformers, without its ending -> role: path inside a layer. All of these have LLaMA's layout.
_LLAMA = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.in": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
LAYOUTS = {"Llama": _LLAMA, "Mistral": _LLAMA, "Qwen2": _LLAMA, "Qwen3": _LLAMA, "Gemma": _LLAMA}


def language_roles(model: nn.Module) -> dict[str, str]:
    """Roles of the linear layers of a causal language model, also inside the wrapper of another library.

    Args:
        model: Any model.

    Returns:
        Path by role (`blocks.3.mlp.out`), in the order of the layers; empty where no layer of a known kind is found.
    """
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        kind = re.fullmatch(r"(\w+)DecoderLayer", type(module).__name__)
        layout = LAYOUTS.get(kind[1]) if kind else None
        if layout is None:
            continue
        index = path.rpartition(".")[2]
        found |= {f"blocks.{index}.{role}": f"{path}.{place}" for role, place in layout.items()}
    return found

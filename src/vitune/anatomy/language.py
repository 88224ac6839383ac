"""Roles of the linear layers in transformers' causal language models, also inside the wrapper of another library.

For what acts on linear layers of any model by name; the models themselves are the family `hf_llama`.
"""

from __future__ import annotations

import re

from torch import nn

# Role: path inside a layer, in the order of the forward pass.
LINEARS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.in": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
# Class names in transformers, without their ending, of layers with LLaMA's layout.
LAYOUTS: dict[str, dict[str, str]] = dict.fromkeys(["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma"], LINEARS)


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

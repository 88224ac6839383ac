"""transformers' causal language models of LLaMA's layout: LLaMA, Mistral, Qwen2, Qwen3; as such, or as classifiers.

They read token ids in place of images. The classifier of `...ForSequenceClassification` is the head; the vocabulary's
matrix of `...ForCausalLM` is none: only `full` trains it, since it may be the embedding itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._hf import first, has, is_one_of, layer_operators
from vitune.anatomy._roles import Anatomy, Block
from vitune.anatomy.language import LINEARS

FAMILY = "hf-llama"
TIMM_FILES = ()
LOOKED_FOR = "transformers ForCausalLM or ForSequenceClassification of Llama, Mistral, Qwen2 or Qwen3"

_FOLDERS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_NORMED = {"attn.q": ("attn.q_norm", "self_attn.q_norm"), "attn.k": ("attn.k_norm", "self_attn.k_norm")}


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return any(
        is_one_of(model, folder, f"{name}ForCausalLM", f"{name}ForSequenceClassification")
        for folder, name in _FOLDERS.items()
    )


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is at none of its places.
    """
    config: Any = model.config
    stack = first(model, "model.layers")
    operators, blocks = [], []
    for i in range(len(model.get_submodule(stack))):  # type: ignore[arg-type]
        here = f"{stack}.{i}"
        operators += layer_operators(model, f"blocks.{i}", here, _places(model, here))
        attention = first(model, f"{here}.self_attn")
        blocks.append(Block(i, here, config.hidden_size, config.num_attention_heads, attention))
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=(*operators, operator(model, "norm", first(model, "model.norm"))),
        blocks=tuple(blocks),
        head=("score",) if isinstance(getattr(model, "score", None), nn.Linear) else (),
        width=config.hidden_size,
        num_prefix_tokens=0,
        grid=(0, 0),
        input_size=(0, 0, 0),
        pooling="last",
        vocabulary=config.vocab_size,
    )


def _places(model: nn.Module, layer: str) -> dict[str, tuple[str, ...]]:
    """Role to place inside a layer, in the order of the forward pass."""
    places: dict[str, tuple[str, ...]] = {"norm1": ("input_layernorm",)}
    for role, place in LINEARS.items():
        if role == "mlp.gate":
            places["norm2"] = ("post_attention_layernorm",)
        places[role] = (place,)
        normed = _NORMED.get(role)
        if normed is not None and has(model, f"{layer}.{normed[1]}"):
            places[normed[0]] = (normed[1],)
    return places

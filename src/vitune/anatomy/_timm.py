"""What timm's vision transformers have in common: attention, MLP, attention pooling, the image's geometry."""

from __future__ import annotations

from typing import Any

from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Operator
from vitune.errors import UnsupportedBackboneError


def present(module: nn.Module, *names: str) -> list[str]:
    """Those children of a module that are there and do something."""
    return [n for n in names if not isinstance(getattr(module, n, None) or nn.Identity(), nn.Identity)]


def image_of(model: Any) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """The patch grid and the input size (channels, height, width).

    Raises:
        UnsupportedBackboneError: If the model takes images of any size.
    """
    embed: Any = model.patch_embed
    if embed.grid_size is None or embed.img_size is None:
        raise UnsupportedBackboneError("the model has no fixed image size; create it with img_size=...")
    channels = embed.in_chans if hasattr(embed, "in_chans") else embed.proj.in_channels
    height, width = embed.img_size
    return (int(embed.grid_size[0]), int(embed.grid_size[1])), (int(channels), int(height), int(width))


def patch_operators(model: Any) -> list[Operator]:
    """The patch embedding.

    Raises:
        UnsupportedBackboneError: If it is no `PatchEmbed`.
    """
    if not isinstance(model.patch_embed, PatchEmbed):
        raise UnsupportedBackboneError(
            f"the patch embedding is a {type(model.patch_embed).__name__}; looked for timm's PatchEmbed."
        )
    found = [operator(model, "patch_embed", "patch_embed.proj", layout="NCHW")]
    names = present(model.patch_embed, "norm")
    return found + [operator(model, f"patch_embed.{name}", f"patch_embed.{name}") for name in names]


def attention_operators(model: nn.Module, role: str, path: str, attention: Any) -> list[Operator]:
    """The layers of an attention module with a fused qkv or with separate `q_proj`, `k_proj`, `v_proj`.

    Args:
        model: The model.
        role: Its role, for instance `blocks.0.attn`.
        path: Its path.
        attention: The module.
    """
    here = f"{role}."
    found = [operator(model, f"{here}gate", f"{path}.gate")] if present(attention, "gate") else []
    if getattr(attention, "qkv", None) is not None:
        # Not as an attribute: an edit of qkv hides it from the attention module.
        names = ("q_bias", "v_bias") if attention._parameters.get("q_bias") is not None else ()
        found.append(
            operator(
                model,
                f"{here}qkv",
                f"{path}.qkv",
                parts=tuple(f"{here}{name}" for name in "qkv"),
                biases=tuple(f"{path}.{name}" for name in names),
            )
        )
    else:
        found += [operator(model, f"{here}{name}", f"{path}.{name}_proj") for name in "qkv"]
    norms = present(attention, "q_norm", "k_norm", "sub_norm", "norm")
    found += [operator(model, f"{here}{name}", f"{path}.{name}") for name in norms]
    return [*found, operator(model, f"{here}out", f"{path}.proj")]


def mlp_operators(model: nn.Module, role: str, path: str, mlp: nn.Module) -> list[Operator]:
    """The layers of an MLP.

    Args:
        model: The model.
        role: Its role, for instance `blocks.0.mlp`.
        path: Its path.
        mlp: The module.

    Raises:
        UnsupportedBackboneError: If it is of a kind without known roles.
    """
    if isinstance(mlp, GluMlp):
        order = (f"{role}.in", f"{role}.gate") if mlp.gate_last else (f"{role}.gate", f"{role}.in")
        found = [operator(model, f"{role}.in_gate", f"{path}.fc1", parts=order)]
    elif isinstance(mlp, SwiGLU):
        found = [
            operator(model, f"{role}.gate", f"{path}.fc1_g"),
            operator(model, f"{role}.in", f"{path}.fc1_x"),
        ]
    elif isinstance(mlp, Mlp):
        found = [operator(model, f"{role}.in", f"{path}.fc1")]
    else:
        raise UnsupportedBackboneError(
            f"the MLP of {role.removesuffix('.mlp')} is a {type(mlp).__name__}; "
            f"looked for timm's Mlp, GluMlp or SwiGLU."
        )
    if present(mlp, "norm"):
        found.append(operator(model, f"{role}.norm", f"{path}.norm"))
    return [*found, operator(model, f"{role}.out", f"{path}.fc2")]


def pool_operators(model: Any) -> list[Operator]:
    """The layers of attention pooling, if the model pools so.

    Raises:
        UnsupportedBackboneError: If the pooling is a module of another kind.
    """
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return []
    if not isinstance(pool, AttentionPoolLatent):
        raise UnsupportedBackboneError(
            f"the pooling is a {type(pool).__name__}; looked for timm's AttentionPoolLatent, a class token or averages."
        )
    found = [operator(model, "pool.q", "attn_pool.q")] if isinstance(pool.q, nn.Linear) else []
    found += [
        operator(model, "pool.kv", "attn_pool.kv", parts=("pool.k", "pool.v")),
        operator(model, "pool.out", "attn_pool.proj"),
    ]
    if pool.mlp is not None:
        found += [operator(model, "pool.norm", "attn_pool.norm")] if present(pool, "norm") else []
        found.append(operator(model, "pool.mlp.in", "attn_pool.mlp.fc1"))
        found.append(operator(model, "pool.mlp.out", "attn_pool.mlp.fc2"))
    return found


def heads(model: nn.Module, *names: str) -> tuple[str, ...]:
    """Those of the named modules that classify."""
    return tuple(name for name in names if isinstance(getattr(model, name, None), nn.Linear))

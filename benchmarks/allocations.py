"""Where SPT spends 400,000 parameters at ViT-B/16, for counting costs without a data set.

The shape of the 19 allocations that the authors released for their budget 0.4: modules on 13 of the 72 matrices, most
of them at the end of the MLPs of the last blocks; about 60 vectors whole; the rest of the budget as single entries,
spread over the other matrices.
"""

from __future__ import annotations

from typing import Literal

BLOCKS = 12
MATRICES = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out")
WITH_MODULE = {
    "attn.v": (9, 10, 11),
    "attn.out": (10, 11),
    "mlp.in": (8, 9, 10, 11),
    "mlp.out": (8, 9, 10, 11),
}
VECTORS = ("norm1.bias", "norm2.bias", "attn.v.bias", "attn.out.bias", "mlp.out.bias")
ENTRIES = 560  # of each other matrix


def spt_400k(structure: Literal["lora", "adapter"]) -> str:
    """SPT with that allocation, as the command line spells it; without dropout, as the references were measured."""
    modules = [f"blocks.{i}.{role}" for role, blocks in WITH_MODULE.items() for i in blocks]
    others = [f"blocks.{i}.{role}" for i in range(BLOCKS) for role in MATRICES]
    settings = {
        "structure": structure,
        "structured": modules,
        "vectors": VECTORS,
        "sparse": [f"{name}.weight:{ENTRIES}" for name in others if name not in modules],
    }
    texts = [f"{name}={v if isinstance(v, str) else '+'.join(v)}" for name, v in settings.items()]
    return f"spt(dropout=0,drop_path=0,{','.join(texts)})"

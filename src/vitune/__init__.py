"""vitune: fine-tune vision transformers with a fraction of the parameters, memory, compute and storage.

The names below are imported when first used, so that `import vitune` needs neither torch nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "apply": "vitune.tuned",
    "load": "vitune.adapters",
    "Tuned": "vitune.tuned",
    "Policy": "vitune.methods",
    "Method": "vitune.methods",
    "Full": "vitune.methods",
    "LinearProbe": "vitune.methods",
    "BitFit": "vitune.methods",
    "LoRA": "vitune.methods",
    "SSF": "vitune.methods",
    "AdaptFormer": "vitune.methods",
    "VituneError": "vitune.errors",
}
__all__ = ["SSF", "AdaptFormer", "BitFit", "Full", "LinearProbe", "LoRA", "Method", "Policy", "Tuned"]
__all__ += ["VituneError", "__version__", "apply", "load"]

if TYPE_CHECKING:
    from vitune.adapters import load as load
    from vitune.errors import VituneError as VituneError
    from vitune.methods import SSF as SSF
    from vitune.methods import AdaptFormer as AdaptFormer
    from vitune.methods import BitFit as BitFit
    from vitune.methods import Full as Full
    from vitune.methods import LinearProbe as LinearProbe
    from vitune.methods import LoRA as LoRA
    from vitune.methods import Method as Method
    from vitune.methods import Policy as Policy
    from vitune.tuned import Tuned as Tuned
    from vitune.tuned import apply as apply


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vitune' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})

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
    "DyT": "vitune.methods",
    "Full": "vitune.methods",
    "HST": "vitune.methods",
    "LinearProbe": "vitune.methods",
    "BiAdaptFormer": "vitune.methods",
    "BiLoRA": "vitune.methods",
    "BitFit": "vitune.methods",
    "LoRA": "vitune.methods",
    "Peft": "vitune.methods.hf_peft",
    "SPT": "vitune.methods",
    "SSF": "vitune.methods",
    "AdaptFormer": "vitune.methods",
    "Adapter": "vitune.methods",
    "SCT": "vitune.methods",
    "ALaST": "vitune.methods",
    "Suffix": "vitune.methods",
    "VeLoRA": "vitune.methods",
    "VPT": "vitune.methods",
    "E2VPT": "vitune.methods",
    "VituneError": "vitune.errors",
}
__all__ = ["HST", "SSF", "AdaptFormer", "BitFit", "Full", "LinearProbe", "LoRA", "Method", "Policy", "Tuned"]
__all__ += ["E2VPT", "SCT", "SPT", "VPT", "ALaST", "Adapter", "BiAdaptFormer"]
__all__ += ["BiLoRA", "DyT", "Peft", "Suffix", "VeLoRA", "VituneError", "__version__", "apply", "load"]

if TYPE_CHECKING:
    from vitune.adapters import load as load
    from vitune.errors import VituneError as VituneError
    from vitune.methods import E2VPT as E2VPT
    from vitune.methods import HST as HST
    from vitune.methods import SCT as SCT
    from vitune.methods import SPT as SPT
    from vitune.methods import SSF as SSF
    from vitune.methods import VPT as VPT
    from vitune.methods import Adapter as Adapter
    from vitune.methods import AdaptFormer as AdaptFormer
    from vitune.methods import ALaST as ALaST
    from vitune.methods import BiAdaptFormer as BiAdaptFormer
    from vitune.methods import BiLoRA as BiLoRA
    from vitune.methods import BitFit as BitFit
    from vitune.methods import DyT as DyT
    from vitune.methods import Full as Full
    from vitune.methods import LinearProbe as LinearProbe
    from vitune.methods import LoRA as LoRA
    from vitune.methods import Method as Method
    from vitune.methods import Policy as Policy
    from vitune.methods import Suffix as Suffix
    from vitune.methods import VeLoRA as VeLoRA
    from vitune.methods.hf_peft import Peft as Peft
    from vitune.tuned import Tuned as Tuned
    from vitune.tuned import apply as apply


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vitune' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})

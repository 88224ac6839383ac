"""Adapters: what tuning leaves behind, on disk and back."""

from vitune.adapters._files import CONFIG, TENSORS, read_config
from vitune.adapters._identity import frozen_hash
from vitune.adapters.copying import copy_for_others
from vitune.adapters.loading import load
from vitune.adapters.low_bit import Rounding, effect, round_weights, stored_bytes
from vitune.adapters.merging import merge, unfoldable, write_merged
from vitune.adapters.modules import load_modules, read_modules, save_modules, save_modules_of_adapter
from vitune.adapters.saving import num_classes, save

__all__ = [
    "CONFIG",
    "TENSORS",
    "frozen_hash",
    "load",
    "merge",
    "num_classes",
    "read_config",
    "save",
    "unfoldable",
]
__all__ += ["copy_for_others"]
__all__ += ["Rounding", "effect", "round_weights", "stored_bytes", "write_merged"]
__all__ += ["load_modules", "read_modules", "save_modules", "save_modules_of_adapter"]

"""What a model, a method or a step really costs: parameters, FLOPs, saved activations, memory, time.

Everything works on any `nn.Module` and any callable; nothing here knows of methods or training. What needs
torch is loaded on first use, so that reading a table of results does not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vitune.measure.allocator import keep_freed_memory, return_freed_memory
from vitune.measure.intervals import MeanInterval, mean_interval, paired_interval, wilson
from vitune.measure.machine import machine, versions

if TYPE_CHECKING:
    from vitune.measure.activations import SavedActivations, SavedTensor, saved_activation_bytes
    from vitune.measure.flops import FlopCount, count_flops, count_model_flops
    from vitune.measure.live import LiveBytes, live_bytes
    from vitune.measure.memory import MemoryForecast, forecast_memory, forecast_peak
    from vitune.measure.parameters import GroupCount, ParameterCount, count_parameters
    from vitune.measure.peak import PeakMemory, peak_memory
    from vitune.measure.timing import Ratio, Timing, compare_seconds
    from vitune.measure.weightless import weightless_copy
    from vitune.measure.work import Work, count_work

_FILE_OF = {
    "SavedActivations": "activations",
    "SavedTensor": "activations",
    "saved_activation_bytes": "activations",
    "FlopCount": "flops",
    "count_flops": "flops",
    "count_model_flops": "flops",
    "LiveBytes": "live",
    "live_bytes": "live",
    "MemoryForecast": "memory",
    "forecast_memory": "memory",
    "forecast_peak": "memory",
    "GroupCount": "parameters",
    "ParameterCount": "parameters",
    "count_parameters": "parameters",
    "PeakMemory": "peak",
    "peak_memory": "peak",
    "Ratio": "timing",
    "Timing": "timing",
    "compare_seconds": "timing",
    "weightless_copy": "weightless",
    "Work": "work",
    "count_work": "work",
}

__all__ = [
    "FlopCount",
    "GroupCount",
    "LiveBytes",
    "MeanInterval",
    "MemoryForecast",
    "ParameterCount",
    "PeakMemory",
    "Ratio",
    "SavedActivations",
    "SavedTensor",
    "Timing",
    "Work",
    "compare_seconds",
    "count_flops",
    "count_model_flops",
    "count_parameters",
    "count_work",
    "forecast_memory",
    "forecast_peak",
    "keep_freed_memory",
    "live_bytes",
    "machine",
    "mean_interval",
    "paired_interval",
    "peak_memory",
    "return_freed_memory",
    "saved_activation_bytes",
    "versions",
    "weightless_copy",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'vitune.measure' has no attribute '{name}'")
    return getattr(importlib.import_module(f"vitune.measure.{_FILE_OF[name]}"), name)

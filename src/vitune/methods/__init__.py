"""Methods, one file each. This file is the table of them: add a line to add a method."""

from vitune.methods._base import Criterion, Method, Policy, count_parameters
from vitune.methods._registry import ENTRY_POINTS, all_methods, get_method, register
from vitune.methods.adaptformer import AdaptFormer
from vitune.methods.bitfit import BitFit
from vitune.methods.full import Full
from vitune.methods.linear import LinearProbe
from vitune.methods.lora import LoRA
from vitune.methods.parse import method_text, parse
from vitune.methods.ssf import SSF

__all__ = [
    "ENTRY_POINTS",
    "SSF",
    "AdaptFormer",
    "BitFit",
    "Criterion",
    "Full",
    "LinearProbe",
    "LoRA",
    "Method",
]
__all__ += ["Policy", "all_methods", "count_parameters", "get_method", "method_text", "parse", "register"]

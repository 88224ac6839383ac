"""Methods, one file each. This file is the table of them: add a line to add a method."""

from vitune.methods._base import Criterion, DataNeeds, Method, Policy, Run, Skipping, count_parameters
from vitune.methods._composition import Refusal, refusals
from vitune.methods._costs import KNOWN_COSTS, KnownCosts, MethodCosts, known_costs
from vitune.methods._registry import BRIDGES, ENTRY_POINTS, all_methods, get_method, register
from vitune.methods.adapter import Adapter
from vitune.methods.adaptformer import AdaptFormer
from vitune.methods.alast import ALaST
from vitune.methods.bi_adaptformer import BiAdaptFormer
from vitune.methods.bi_lora import BiLoRA
from vitune.methods.bitfit import BitFit
from vitune.methods.dyt import DyT
from vitune.methods.e2vpt import E2VPT
from vitune.methods.full import Full
from vitune.methods.hst import HST
from vitune.methods.linear import LinearProbe
from vitune.methods.lora import LoRA
from vitune.methods.parse import given_settings, method_text, parse
from vitune.methods.sct import SCT
from vitune.methods.spt import SPT
from vitune.methods.ssf import SSF
from vitune.methods.suffix import Suffix
from vitune.methods.velora import VeLoRA
from vitune.methods.vpt import VPT

__all__ = [
    "BRIDGES",
    "E2VPT",
    "ENTRY_POINTS",
    "HST",
    "SCT",
    "SPT",
    "SSF",
    "VPT",
    "AdaptFormer",
    "Adapter",
    "BiAdaptFormer",
    "BiLoRA",
    "BitFit",
    "Criterion",
    "DataNeeds",
    "DyT",
    "Full",
    "LinearProbe",
    "LoRA",
    "Method",
]
__all__ += ["ALaST", "Policy", "Run", "Skipping", "Suffix", "VeLoRA"]
__all__ += ["KNOWN_COSTS", "KnownCosts", "MethodCosts", "Refusal", "known_costs", "refusals"]
__all__ += [
    "all_methods",
    "count_parameters",
    "get_method",
    "given_settings",
    "method_text",
    "parse",
    "register",
]

"""DyT: parallel adapters, and gates by which tokens skip frozen parts of the backbone. See `_method.py`."""

from vitune.methods.dyt._method import DyT
from vitune.methods.dyt.activity import activation_rates, decisions, kept_tokens, picture_record
from vitune.methods.dyt.costs import Macs, macs
from vitune.methods.dyt.dispatch import Dispatch
from vitune.methods.dyt.gate import Decision

__all__ = ["Decision", "Dispatch", "DyT", "Macs", "activation_rates", "decisions", "kept_tokens", "macs"]
__all__ += ["picture_record"]

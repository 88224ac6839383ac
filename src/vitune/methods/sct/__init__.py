"""SCT, salient channel tuning: settings, layers, the choice of channels, and what it does before training."""

from vitune.methods.sct.layers import SalientLinear, SalientRows
from vitune.methods.sct.salience import Salience, class_norms, visit_features
from vitune.methods.sct.selection import salient_channels, set_channels
from vitune.methods.sct.settings import SCT
from vitune.methods.sct.sites import Site

__all__ = ["SCT", "Salience", "SalientLinear", "SalientRows", "Site", "class_norms", "salient_channels"]
__all__ += ["set_channels", "visit_features"]

"""Which method suits the user's data, machine and limits: forecast costs, and what the evidence says.

Costs are counted on weightless copies; times come of a few short steps of the real model. Accuracies are not forecast:
the order follows trials of ours on data of other users' size, and says so.
"""

from vitune.tasks.suggest.result import Costs, Excluded, Ranked, Suggestion
from vitune.tasks.suggest.settings import METHODS, Limits, SuggestSettings
from vitune.tasks.suggest.suggesting import suggest

__all__ = [
    "METHODS",
    "Costs",
    "Excluded",
    "Limits",
    "Ranked",
    "SuggestSettings",
    "Suggestion",
    "suggest",
]

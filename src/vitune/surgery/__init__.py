"""Surgery: reversible edits of modules that are not ours. The only package that changes a foreign module."""

from vitune.surgery.convolution import convolve, runs_its_kernel
from vitune.surgery.edits import CHILD, Edit, attach, detach, layer_of, parts_of
from vitune.surgery.gate import GATED_IN_TRAINING, gate
from vitune.surgery.plain_vit import as_output, check_plain_vit, classify, embed
from vitune.surgery.plan import (
    Attach,
    AttachAtPoint,
    LeaveOut,
    MakeLayer,
    Step,
    Train,
    carry_out,
    check,
    layer_path,
    undo,
)
from vitune.surgery.points import CONTEXT, POINTS, ROWS, BlockWithPoints, WithPoints, has_point, points_for
from vitune.surgery.points.attention import ATTENTION_POINTS, AttentionWithPoints
from vitune.surgery.recompute import activation_behind, attended, attention_around, projected
from vitune.surgery.split_bias import bias_of, kept_apart, takes_shift
from vitune.surgery.stand_in import AlwaysInEvaluation, stand_in
from vitune.surgery.statistics import hold, release

__all__ = [
    "ATTENTION_POINTS",
    "CHILD",
    "CONTEXT",
    "GATED_IN_TRAINING",
    "POINTS",
    "ROWS",
    "AlwaysInEvaluation",
    "Attach",
    "AttachAtPoint",
    "AttentionWithPoints",
]
__all__ += ["BlockWithPoints", "Edit", "LeaveOut", "MakeLayer", "Step", "Train", "WithPoints"]
__all__ += ["activation_behind", "attended", "attention_around", "projected"]
__all__ += ["convolve", "runs_its_kernel"]
__all__ += ["attach", "carry_out", "check", "detach", "gate", "hold", "layer_of", "layer_path", "parts_of"]
__all__ += ["bias_of", "kept_apart"]
__all__ += ["has_point", "points_for", "release", "stand_in", "takes_shift", "undo"]
__all__ += ["as_output", "check_plain_vit", "classify", "embed"]

"""Surgery: reversible edits of modules that are not ours. The only package that changes a foreign module."""

from vitune.surgery.edits import CHILD, Edit, attach, detach, layer_of, parts_of
from vitune.surgery.gate import gate
from vitune.surgery.plan import (
    Attach,
    AttachAtPoint,
    LeaveOut,
    Step,
    Train,
    carry_out,
    check,
    layer_path,
    undo,
)
from vitune.surgery.points import POINTS, BlockWithPoints, points_for

__all__ = ["CHILD", "POINTS", "Attach", "AttachAtPoint", "BlockWithPoints", "Edit", "LeaveOut"]
__all__ += ["Step", "Train"]
__all__ += ["attach", "carry_out", "check", "detach", "gate", "layer_of", "layer_path", "parts_of"]
__all__ += ["points_for", "undo"]

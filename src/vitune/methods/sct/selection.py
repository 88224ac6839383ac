"""Choosing the salient channels and putting them into the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vitune.anatomy import anatomy
from vitune.errors import ConfigError
from vitune.methods._base import Policy
from vitune.methods.sct.layers import SalientLinear
from vitune.methods.sct.salience import Batches, class_norms
from vitune.methods.sct.sites import sites
from vitune.surgery import Attach, AttachAtPoint, layer_path

if TYPE_CHECKING:
    from vitune.methods.sct.settings import SCT
    from vitune.tuned import Tuned


def salient_channels(model: nn.Module, batches: Batches, method: SCT) -> dict[str, Tensor]:
    """The most salient channels of every site of a plain backbone.

    Args:
        model: The backbone; not changed.
        batches: Training images (B, channels, height, width), without augmentation, and labels (B,).
        method: How many channels, and where.

    Returns:
        Role (`blocks.0.middle`, `blocks.0.mlp.out`, `blocks.0.attn.q`) to channels (K,), ascending.

    Raises:
        DataError: If there is no image.
        VituneError: As the `edits` of the method.
    """
    method.edits(anatomy(model))  # says what does not fit
    found = class_norms(model, sites(anatomy(model), method), batches)
    return {role: salience.top(method.channels) for role, salience in found.items()}


def set_channels(tuned: Tuned, channels: Mapping[str, Tensor]) -> None:
    """Give the maps of a tuned model their channels; training will not choose others.

    Args:
        tuned: A model with `sct` applied.
        channels: Role to channels (K,), ascending, for every map; as `salient_channels` gives them.

    Raises:
        ConfigError: If a map is missing or unknown, or its channels are not K different ones in ascending order.
    """
    method, maps = _method(tuned), _maps(tuned)
    if channels.keys() != maps.keys():
        odd = sorted(channels.keys() ^ maps.keys())[0]
        raise ConfigError(f"sct: channels must be given for every map and no other; see '{odd}'.")
    widths = {site.role: site.width for site in sites(tuned.anatomy, method)}
    for role, index in channels.items():
        ascending = index.tolist() == sorted(set(index.tolist()))
        if len(index) != method.channels or not ascending or index[0] < 0 or index[-1] >= widths[role]:
            raise ConfigError(
                f"sct: '{role}' needs {method.channels} different channels below {widths[role]} in ascending order."
            )
    for role, index in channels.items():
        maps[role].index.copy_(index)
    _policy(tuned).chosen = True


class ChooseChannels(Policy):
    """Chooses the channels from the training images, once: not in a resumed run or for a loaded adapter.

    Attributes:
        chosen: Whether the maps have their channels.
        scores: Role to the score of every channel (C,), where they were measured in this run.

    Args:
        tuned: The model with `sct` applied.
        method: Its settings.
    """

    def __init__(self, tuned: Tuned, method: SCT) -> None:
        self._tuned, self._method = tuned, method
        self.chosen = False
        self.scores: dict[str, Tensor] = {}

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Measure the plain backbone, whatever other methods are applied beside this one."""
        if self.chosen:
            return
        tuned, method = self._tuned, self._method
        batches = getattr(batches, "unaugmented", batches)
        found = class_norms(tuned.model, sites(tuned.anatomy, method), batches, tuned._steps)
        self.scores = {role: salience.score.float() for role, salience in found.items()}
        set_channels(tuned, {role: salience.top(method.channels) for role, salience in found.items()})

    def state_dict(self) -> dict[str, Any]:
        """Whether the channels are chosen, which stand in the maps, and the scores."""
        return {"chosen": self.chosen, **{f"score/{role}": score for role, score in self.scores.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.chosen = bool(state["chosen"])
        found = {
            key.removeprefix("score/"): score for key, score in state.items() if key.startswith("score/")
        }
        self.scores = {role: score.cpu() for role, score in found.items()}


def picture_record(tuned: Tuned) -> dict[str, Any] | None:
    """What `vitune.report.pictures.channel_scores` draws, as JSON values; None where no scores were measured.

    Args:
        tuned: A model with `sct` applied.
    """
    scores, maps = _policy(tuned).scores, _maps(tuned)
    if not scores:
        return None
    return {
        "sites": [
            {
                "role": role,
                "scores": [float(f"{value:.4g}") for value in scores[role].tolist()],
                "chosen": layer.index.tolist(),
            }
            for role, layer in maps.items()
        ]
    }


def _method(tuned: Tuned) -> SCT:
    for method in tuned.methods:
        if method.name == "sct":
            return method  # type: ignore[return-value]
    raise ConfigError("sct is not among the methods of this model, so it has no salient channels.")


def _policy(tuned: Tuned) -> ChooseChannels:
    return next(policy for policy in tuned.policies if isinstance(policy, ChooseChannels))


def _maps(tuned: Tuned) -> dict[str, SalientLinear]:
    """Role to map, of every site."""
    found: dict[str, SalientLinear] = {}
    for step in _method(tuned).edits(tuned.anatomy):
        assert isinstance(step, (Attach, AttachAtPoint))
        parts = step.parts if isinstance(step, Attach) else ()
        paths = {role: f"{layer_path(step)}.{child}" for role, child in parts} or {
            step.role: layer_path(step)
        }
        for role, path in paths.items():
            layer = tuned.model.get_submodule(path)
            assert isinstance(layer, SalientLinear)
            found[role] = layer
    return found

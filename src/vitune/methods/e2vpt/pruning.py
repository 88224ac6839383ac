"""Two stages of training: with masks that train, then rewound with what was pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitune.errors import TrainingError
from vitune.methods._base import Policy, Run
from vitune.methods.e2vpt.scores import Importance, importance, lowest, masks_of, pruning_count
from vitune.randomness import derive_seed
from vitune.surgery import AttachAtPoint, layer_path

if TYPE_CHECKING:
    from vitune.methods.e2vpt.settings import E2VPT
    from vitune.tuned import Tuned

KEPT_TOKENS, KEPT_SEGMENTS = 1, 4  # at least, as in the reference


class Pruning(Policy):
    """Scores and prunes at the end of the first stage, then asks for the second.

    A run that continues with pruned prompts (a loaded adapter) has one stage, in which the masks rest.

    Attributes:
        scores: By what was pruned in this run; None before it was.
    """

    def __init__(self, tuned: Tuned, method: E2VPT) -> None:
        self._tuned, self._method = tuned, method
        self._masks = masks_of(tuned.model)
        self._run: Run | None = None
        self._start: dict[str, Tensor] = {}
        self.scores: Importance | None = None

    def begin(self, run: Run) -> None:
        """Remember the data; masks that were pruned before rest."""
        self._run = run
        self._rest_if_pruned()

    def prepare(self, batches: Any) -> None:
        """Remember the start values, to which everything is rewound."""
        if not self._masks.pruned:
            self._start = {name: tensor.clone() for name, tensor in self._tuned.state().items()}

    def next_stage(self) -> bool:
        """Prune and rewind after the first stage."""
        if self._masks.pruned:
            return False
        batches = self._run.batches if self._run is not None else None
        if batches is None:
            raise TrainingError(
                "e2vpt: pruning needs the training batches to score the prompts on; give them to `begin` in a Run."
            )
        method = self._method
        found = self.scores = importance(
            self._tuned, batches, sign=method.score, per=method.score_per, tokens=method.token_score
        )
        tokens, segments = self._masks.segment.shape
        dropped_tokens = pruning_count(tokens, KEPT_TOKENS, method.prune_tokens)
        dropped_segments = pruning_count(segments, KEPT_SEGMENTS, method.prune_segments)
        self._rewind()
        with torch.no_grad():
            self._masks.token.copy_(lowest(found.tokens, dropped_tokens))
            self._masks.segment.copy_(lowest(found.segments, dropped_segments))
            self._masks.pruned.fill_(True)
        self._start = {}
        self._rest_if_pruned()
        return True

    def log(self) -> dict[str, Any]:
        """Prompts and segments that are left."""
        if not self._masks.pruned:
            return {}
        return {"prompts": int(self._masks.token.sum()), "segments": int(self._masks.segment[0].sum())}

    def state_dict(self) -> dict[str, Any]:
        """Whether the prompts are pruned; until then the start values."""
        start = {f"start/{name}": tensor for name, tensor in self._start.items()}
        scores = {} if self.scores is None else vars(self.scores)
        measured = {f"score/{name}": tensor.cpu() for name, tensor in scores.items()}
        return {"pruned": bool(self._masks.pruned), **start, **measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        device = self._masks.token.device
        self._start = {
            name.removeprefix("start/"): tensor.to(device)
            for name, tensor in state.items()
            if name.startswith("start/")
        }
        if "score/tokens" in state:
            self.scores = Importance(state["score/tokens"], state["score/segments"])
        self._masks.pruned.fill_(state["pruned"])  # the model's own state may come later
        self._rest_if_pruned()

    def picture_record(self) -> dict[str, Any] | None:
        """What `vitune.report.pictures.pruned_prompts` draws, as JSON values; None where nothing was pruned."""
        if self.scores is None:
            return None
        masks = self._masks
        return {
            "token_score": self._method.token_score,
            "tokens": _rounded(self.scores.tokens),
            "segments": [_rounded(row) for row in self.scores.segments],
            "kept_tokens": masks.token.detach().int().tolist(),
            "kept_segments": masks.segment.detach().int().tolist(),
        }

    def _rest_if_pruned(self) -> None:
        if self._masks.pruned:
            for mask in self._masks.parameters():
                mask.requires_grad_(False)
                mask.grad = None
            self._masks.settle()

    def _rewind(self) -> None:
        """Back to the start values; with `reinit` the prompts and the head are drawn anew."""
        self._tuned.load_state(self._start)
        if self._method.rewind == "init":
            return
        seed = self._run.seed if self._run is not None else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "e2vpt", "rewind"))
            for step in self._tuned._steps:
                if isinstance(step, AttachAtPoint) and step.key == self._method.name:
                    _take(self._tuned.model.get_submodule(layer_path(step)), step.make())
            for path in self._tuned.anatomy.head:
                head = self._tuned.model.get_submodule(path)
                if isinstance(head, nn.Linear):
                    fresh = nn.Linear(head.in_features, head.out_features, head.bias is not None)
                    _take(head, fresh)


def _rounded(scores: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in scores.tolist()]


def _take(layer: nn.Module, fresh: nn.Module) -> None:
    """Give a layer the parameters of a fresh one."""
    with torch.no_grad():
        for own, new in zip(layer.parameters(), fresh.parameters(), strict=True):
            own.copy_(new)

"""The settings of SPT, before and after the budget has been allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from vitune.anatomy import Anatomy, anatomy
from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.methods._base import DataNeeds, Method
from vitune.methods._registry import register
from vitune.methods.spt.allocation import STEPS, Allocation, Rules, allocate, sweep_taus, sweep_unit
from vitune.methods.spt.candidates import Structure, candidates, class_token
from vitune.methods.spt.plan import steps
from vitune.methods.spt.ranking import rank_entries
from vitune.methods.spt.sensitivity import sensitivity
from vitune.surgery import Step


@register
@dataclass(frozen=True, kw_only=True)
class SPT(Method):
    """Settings of SPT.

    The last three say what was allocated. `vitune train` fills them in from the training images; in Python
    `resolved(model, batches)` does.

    Attributes:
        budget: Trained parameters outside the head to aim at; the best one differs from task to task.
        structure: Module of a matrix with many sensitive entries: `lora`, which merges, or `adapter`.
        rank: Rank of a LoRA, bottleneck of an adapter.
        alpha: A matrix gets its module from (parameters of the module) / alpha sensitive entries on.
        beta: A vector trains whole from (its length) / beta sensitive entries on.
        structured_only: Leave out the entries that would train one by one.
        structured_vectors: Whether vectors may train whole; else entry by entry.
        adapter_bias: Whether adapters have biases. They count in the budget either way.
        norm_entries: Train single sensitive entries of norms too; the official code counts but does not train them.
        init: Start of the modules' Up: drawn like Down (`reference`, as the official code really does), or `zero_up`.
        dropout: Probability, on what a module reads.
        drop_path: Probability that an image goes without a module.
        batches: Batches of the sensitivity pass.
        batch_size: Their size.
        shuffled: Whether these images are drawn at random, rather than the first of the list; for sorted data.
        noise: Whether the backbone's dropout and drop path act during the pass, as in the official code.
        unit: Size of the sweep over numbers of sensitive entries; chosen by the size of the backbone if none.
        structured: Allocated: roles of the matrices with a module.
        vectors: Allocated: vectors that train whole.
        sparse: Allocated: `TENSOR:NUMBER` for each tensor of which some entries train.
    """

    name: ClassVar[str] = "spt"
    title: ClassVar[str] = "SPT, sensitivity-aware allocation"
    paper: ClassVar[str] = "arXiv:2303.08566"
    default_lr: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = True  # with LoRA; an instance says it of its own structure
    conflicts: ClassVar[Mapping[str, str]] = {
        **Method.conflicts,
        "bitfit": "the biases compete for SPT's budget, and BitFit trains all of them",
    }

    budget: int = 400_000
    structure: Structure = "lora"
    rank: int = 8
    alpha: float = 10.0
    beta: float = 5.0
    structured_only: bool = False
    structured_vectors: bool = True
    adapter_bias: bool = True
    norm_entries: bool = False
    init: Literal["reference", "zero_up"] = "reference"
    dropout: float = 0.1
    drop_path: float = 0.1
    batches: int = 16
    batch_size: int = 32
    shuffled: bool = False
    noise: bool = False
    unit: float | None = None
    structured: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    positions: InitVar[Mapping[str, Tensor] | None] = (
        None  # of the sparse entries; an adapter's tensors hold them
    )

    def __post_init__(self, positions: Mapping[str, Tensor] | None) -> None:
        for setting in ("budget", "rank", "batches", "batch_size"):
            self.require(getattr(self, setting) >= 1, setting, "at least 1")
        for setting in ("alpha", "beta"):
            self.require(0 < getattr(self, setting) < math.inf, setting, "a positive number")
        for setting in ("dropout", "drop_path"):
            self.require(0 <= getattr(self, setting) < 1, setting, "in [0, 1)")
        self.require(self.structure in ("lora", "adapter"), "structure", "'lora' or 'adapter'")
        self.require(self.init in ("reference", "zero_up"), "init", "'reference' or 'zero_up'")
        self.require(self.unit is None or 0 < self.unit < math.inf, "unit", "a positive number or none")
        object.__setattr__(self, "positions", dict(positions or {}))
        object.__setattr__(
            self, "merges", self.structure == "lora" or (self.is_resolved and not self.structured)
        )

    @property
    def is_resolved(self) -> bool:
        """Whether it is known what trains."""
        return bool(self.structured or self.vectors or self.sparse)

    @property
    def needs_data(self) -> DataNeeds | None:
        """The images of the sensitivity pass, until the budget has been allocated."""
        return None if self.is_resolved else DataNeeds(self.batches, self.batch_size, self.shuffled)

    @property
    def starts_at_identity(self) -> bool:
        """Where no module starts with a random Up."""
        return self.init == "zero_up" or (self.is_resolved and not self.structured)

    def rules(self, fixed: int = 0) -> Rules:
        """When what is trained how; `fixed` parameters always train and count."""
        return Rules(
            structure=self.structure,
            rank=self.rank,
            alpha=self.alpha,
            beta=self.beta,
            structured_only=self.structured_only,
            structured_vectors=self.structured_vectors,
            fixed=fixed,
        )

    def resolved(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int = 0) -> SPT:
        """Measure sensitivities and allocate the budget.

        Args:
            model: The plain backbone with its fresh head; left as it was.
            batches: Training images (B, channels, height, width) and labels (B,), without augmentation; as many as
                `batches` says are used.
            seed: Of the noise, if `noise` is on.

        Returns:
            The same settings with `structured`, `vectors` and `sparse` filled in.

        Raises:
            ConfigError: If the budget cannot be reached; names the nearest ones.
            TrainingError: If there is no batch, or a loss is not finite.
            UnsupportedBackboneError: If the backbone is of no known family, or has no linear layer in its blocks.
        """
        if self.is_resolved:
            return self
        found = anatomy(model)
        known = candidates(found)
        if not any(candidate.is_matrix for candidate in known):
            raise UnsupportedBackboneError(
                f"spt: this {found.family} backbone has no linear layer inside its blocks, so nothing but norms would "
                f"compete for the budget; train those with bitfit, or choose another method."
            )
        unit = sweep_unit(known, self.budget) if self.unit is None else self.unit
        scores = sensitivity(model, batches, most=self.batches, noise=self.noise, seed=seed)
        ranking = rank_entries(scores, sweep_taus(unit)[STEPS - 1])
        token = class_token(found)
        fixed = model.get_parameter(token).numel() if token else 0
        return self.allocated(allocate(ranking, known, self.budget, self.rules(fixed), unit=unit), found)

    def allocated(self, allocation: Allocation, found: Anatomy) -> SPT:
        """The settings with an allocation filled in.

        Args:
            allocation: What `allocate` found.
            found: The backbone it was found for.

        Raises:
            ConfigError: If nothing was allocated.
        """
        norms = {c.name for c in candidates(found) if c.operator.kind == "norm"}
        positions = {
            name: places
            for name, places in allocation.positions.items()
            if len(places) and (self.norm_entries or name not in norms)
        }
        if not (allocation.structured or allocation.vectors or positions):
            raise ConfigError(
                f"spt: with a budget of {self.budget:,} parameters nothing but the class token would train; "
                f"choose a larger budget or alpha."
            )
        return dataclasses.replace(
            self,
            structured=allocation.structured,
            vectors=allocation.vectors,
            sparse=tuple(f"{name}:{len(places)}" for name, places in positions.items()),
            positions=positions,
        )

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """The class token, and an edit per layer with something to train.

        Raises:
            ConfigError: If the budget has not been allocated, or a tensor is to train in two ways.
            NothingMatchedError: If an allocated name is not in this backbone.
            UnsupportedBackboneError: If a module is asked for where no matrix is.
        """
        if not self.is_resolved:
            raise ConfigError(
                "spt: where to spend the budget depends on the data; `vitune train` finds out, and in Python "
                "method.resolved(model, batches) gives the method to apply."
            )
        return steps(anatomy, self, vars(self)["positions"])

"""The unit vector of one layer: where it comes from, and when it changes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensor

from vitune.methods._recomputation import recomputing
from vitune.methods.velora.compression import sub_tokens

Init = Literal["batch_average_once", "batch_average", "ema", "uniform", "random"]
INITS = get_args(Init)
_EPS = 1e-12


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How one layer's input is compressed.

    Attributes:
        groups: Sub-tokens per token, G.
        size: Sub-token size, M.
        init: Where v comes from, see `VeLoRA`.
        decay: Of the running average.
        scale: Factor on the weight's gradient.
        half: Whether the projections are computed and kept in float16.
    """

    groups: int
    size: int
    init: Init = "batch_average_once"
    decay: float = 0.99
    scale: float = 1.0
    half: bool = False


class Direction(nn.Module):
    """v (M,) of one layer; buffers alone, nothing that trains.

    Args:
        compression: How.
    """

    v: Tensor
    initialised: Tensor
    decides = True  # learns v from the whole batch

    def __init__(self, compression: Compression) -> None:
        super().__init__()
        self.compression = compression
        drawn = {"uniform": torch.rand, "random": torch.randn}.get(compression.init)
        v = torch.zeros(compression.size) if drawn is None else normalised(drawn(compression.size))
        self.register_buffer("v", v)
        self.register_buffer("initialised", torch.tensor(drawn is not None))
        # Whether v is there for good; then no forward looks at the flag again.
        self._settled = False

    @property
    def needs_all_tokens(self) -> bool:
        """Whether v is still to be learnt, from all tokens also at a level that runs the last block for few."""
        return not self._settled

    @property
    def acts(self) -> bool:
        """Whether a forward now is one of training; anywhere else the plain layer runs and v stays as it is."""
        return self.training and torch.is_grad_enabled()

    def forward(self, x: Tensor, kept: torch.dtype) -> Tensor:
        """The vector with which to compress x (..., D), learnt from x where that is due.

        Args:
            x: Input of the layer, of a forward that trains.
            kept: Type in which to give it.

        Returns:
            (M,); it does not change before the backward.
        """
        with torch.no_grad():
            if not self._settled and not recomputing():
                self._learn(x)
            once = self.compression.init not in ("batch_average", "ema")
            v = self.v.to(torch.float16 if self.compression.half else kept)
            # A later forward may write into the buffer before this one's backward.
            return v if once or v is not self.v else v.clone()

    def _learn(self, x: Tensor) -> None:
        init, known = self.compression.init, self.initialised
        if init in ("uniform", "random"):
            fresh = self.v
        else:
            average = mean_sub_token(x, self.compression)
            if init == "ema":
                decay = torch.where(known, self.compression.decay, 0.0)
                average = decay * self.v.float() + (1 - decay) * average
            if self.compression.half:  # as the release rounds
                average = average.half()
                average = average / average.norm().clamp_min(_EPS)
            fresh = normalised(average, exact=not self.compression.half)
        if init in ("batch_average_once", "uniform", "random"):
            # Averaged weights (EMA) shrink a vector that was learnt during the run; all else leaves it as it is.
            old = self.v.float()
            length = old.norm()
            old = torch.where((length - 1).abs() > 0.01, old / length.clamp_min(_EPS), old)
            fresh = torch.where(known, old, fresh.float())
            self._settled = not (torch.compiler.is_compiling() or isinstance(x, FakeTensor))
        self.v.copy_(fresh)
        known.fill_(True)

    def extra_repr(self) -> str:
        """For print."""
        c = self.compression
        return f"groups={c.groups}, size={c.size}, init={c.init}, scale={c.scale}"


def mean_sub_token(x: Tensor, compression: Compression) -> Tensor:
    """Mean of the sub-tokens of x (..., D), (M,), over all processes where the vector is learnt once or as a running
    average; in float32, or in float16 where that is asked for."""
    rows = x.reshape(-1, x.shape[-1])
    if compression.half:  # as the release rounds
        return sub_tokens(rows.half(), compression.groups, compression.size).flatten(0, 1).mean(0)
    mean = sub_tokens(rows.mean(0, dtype=torch.float32), compression.groups, compression.size).mean((0, 1))
    together = distributed.is_available() and distributed.is_initialized()
    if together and compression.init != "batch_average" and not isinstance(x, FakeTensor):
        counted = torch.cat([mean * rows.shape[0], mean.new_tensor([rows.shape[0]])])
        distributed.all_reduce(counted)
        mean = counted[:-1] / counted[-1]
    return mean


def normalised(v: Tensor, *, exact: bool = True) -> Tensor:
    """v at length 1, in float32; the constant vector where v is zero or not finite, with a warning.

    Args:
        v: (M,).
        exact: False leaves a length that is 1 but for rounding as it is.
    """
    v = v.float()
    norm = v.norm()
    usable = (norm > _EPS) & norm.isfinite()
    constant = torch.full_like(v, 1 / math.sqrt(v.numel()))
    quiet = torch.compiler.is_compiling() or isinstance(v, FakeTensor) or v.is_meta
    if not quiet and not usable:
        warnings.warn(
            "velora: the mean sub-token of a layer's first batch is zero or not finite; the constant vector is used.",
            stacklevel=3,
        )
    unit = v / norm.clamp_min(_EPS)
    if not exact:
        unit = torch.where((norm - 1).abs() < 0.01, v, unit)
    return torch.where(usable, unit, constant)

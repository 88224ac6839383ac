"""A layer's way to hold a weight in few bits: while it trains, and after it came from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitune.ops.codebook import BookName, codebook
from vitune.ops.low_bit import Code, encode, latents, straight_through
from vitune.ops.low_bit import decode as decode_with


class Quantiser(nn.Module):
    """Rounds the latent weights of the module it sits on; has no parameters and nothing in the state dict.

    What a file holds is (indices, mean, std), and rounding anew would give the last two back only almost. So a
    quantiser that `hold`s a code uses it as it stands, and gives it to the next file, until the latent weights
    change or the module is put into training mode.

    Attributes:
        bits: 1, 2, 4 or 8.
        book: Name of the codebook.
    """

    bits: int
    book: BookName
    levels: Tensor
    thresholds: Tensor
    index: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    decoded: Tensor | None

    def __init__(self, bits: int, book: BookName = "reference") -> None:
        super().__init__()
        self.bits, self.book = bits, book
        found = codebook(bits, book)
        self.register_buffer("levels", found.levels, persistent=False)
        self.register_buffer("thresholds", found.thresholds, persistent=False)
        for name in ("index", "mean", "std", "decoded"):
            self.register_buffer(name, None, persistent=False)
        self._held_for: tuple[nn.Parameter] | None = None  # a tuple, so that it does not become a child
        self._version = 0

    def forward(self, latent: Tensor) -> Tensor:
        """The weights to compute with, of the latent weights' shape and type; differentiable."""
        code = self._held(latent)
        if torch.is_grad_enabled() and latent.requires_grad and not torch.compiler.is_exporting():
            code = code or encode(latent, self.thresholds)
            return straight_through(latent, code, self.levels, self.thresholds)
        if code is not None and self.decoded is not None:
            return self.decoded.to(latent.dtype)
        return self.decode(encode(latent, self.thresholds)).to(latent.dtype)

    def code(self, latent: Tensor) -> Code:
        """What a file is to hold of the latent weights."""
        return self._held(latent) or encode(latent, self.thresholds)

    def decode(self, code: Code) -> Tensor:
        """The matrix that a code stands for, float32."""
        return decode_with(code, self.levels)

    def hold(self, latent: nn.Parameter, code: Code) -> None:
        """Take over what a file holds: the latent weights are set so that training can go on from there."""
        code = Code(*(part.to(latent.device) for part in code))
        with torch.no_grad():
            latent.copy_(latents(code, self.levels))
        self.index, self.mean, self.std = code
        self.decoded = self.decode(code)
        self._held_for, self._version = (latent,), _version(latent)

    def let_go(self) -> None:
        """From now on round the latent weights."""
        self.index = self.mean = self.std = self.decoded = None
        self._held_for = None

    def train(self, mode: bool = True) -> Quantiser:
        """Training changes the latent weights; a compiled graph must not go on with what was held."""
        if mode:
            self.let_go()
        return super().train(mode)

    def _held(self, latent: Tensor) -> Code | None:
        if self.index is None or self.mean is None or self.std is None:
            return None
        if torch.compiler.is_compiling():
            # A graph cannot ask for the version; but it need not where no gradient can reach the latent weights.
            trains = torch.is_grad_enabled() and latent.requires_grad and not torch.compiler.is_exporting()
            return None if trains else Code(self.index, self.mean, self.std)
        if self._held_for is None or latent is not self._held_for[0] or _version(latent) != self._version:
            self.let_go()
            return None
        return Code(self.index, self.mean, self.std)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantiser:
        """Move along, but stay in float32: half a codebook would be another one."""
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = getattr(self, name)
            setattr(self, name, moved if moved.dtype == buffer.dtype else buffer.to(moved.device))
        return self

    def __getstate__(self) -> dict[str, Any]:
        if self._held_for is not None:
            self._held(self._held_for[0])  # lets go of what holds no longer
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._held_for is not None:  # a copy counts the changes of its weights anew
            self._version = _version(self._held_for[0])


class LowBitMatrix(nn.Module):
    """A matrix whose latent weights train in full precision and whose rounded weights are used."""

    def __init__(self, rows: int, columns: int, bits: int, book: BookName = "reference") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.quantiser = Quantiser(bits, book)

    def forward(self) -> Tensor:
        """The rounded weights, (rows, columns)."""
        return self.quantiser(self.weight)


def quantisers(model: nn.Module) -> dict[str, Quantiser]:
    """The quantiser of every tensor that has one, by the tensor's name in the state dict.

    A quantiser belongs to the `weight` of the nearest module above it that has one.
    """
    found: dict[str, Quantiser] = {}
    for path, module in model.named_modules():
        if not isinstance(module, Quantiser):
            continue
        above = path
        while above:
            above = above.rpartition(".")[0]
            if isinstance(model.get_submodule(above)._parameters.get("weight"), nn.Parameter):
                found[f"{above}.weight".lstrip(".")] = module
                break
    return found


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

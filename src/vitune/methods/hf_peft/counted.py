"""Types of PEFT whose shapes depend on values of tensors, computed with shapes known beforehand.

What such a layer costs could not be counted before it runs, nor could it be compiled as a whole. The numbers are the
same: PEFT's masks let everything through, and a sparse matrix is written out.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitune.surgery import Edit, attach

if TYPE_CHECKING:
    from vitune.tuned import Tuned

_FACTOR = ".vitune.peft.frod_U."


def with_fixed_shapes(kind: str, layer: nn.Module) -> None:
    """Let a layer of PEFT compute with shapes that do not depend on values, where its type needs it.

    Args:
        kind: PEFT type.
        layer: The layer, outside of the model still.
    """
    if kind == "WAVEFT":
        attach(layer, WaveletUpdate, nn.Module())
    if kind == "FROD":
        own_projections(layer)
        attach(layer, WrittenOut, nn.Module())


class WaveletUpdate(Edit):
    """The update of WaveFT, without its mask of the coefficients that lie inside the matrix: all of them do."""

    key = "wavelets"

    def get_delta_weight(self: Any, adapter: str) -> Tensor:
        """The update (out, in): the inverse wavelet transform of few coefficients, cropped to the middle."""
        shape = (self.out_features, self.in_features)
        spectrum = self.waveft_spectrum[adapter]
        rows, columns = self.waveft_indices[adapter].to(spectrum.device)
        scaling = self.waveft_scaling[adapter]
        if not self.waveft_use_idwt[adapter]:
            return _scattered(spectrum, rows, columns, shape) * scaling
        family = self.waveft_wavelet_family[adapter]
        reductions = importlib.import_module("peft.tuners.waveft.constants").WAVELET_REDUCTIONS[family]
        inverse = importlib.import_module("peft.tuners.waveft.waverec2d").waverec2d
        padded = [size + more + (size + more) % 2 for size, more in zip(shape, reductions, strict=True)]
        offsets = [(wide - size) // 2 for wide, size in zip(padded, shape, strict=True)]
        dense = _scattered(spectrum, rows + offsets[0], columns + offsets[1], padded)
        top, bottom = dense.chunk(2, dim=0)
        whole = inverse((top.chunk(2, dim=1)[0], (top.chunk(2, dim=1)[1], *bottom.chunk(2, dim=1))), family)
        starts = [(found - size) // 2 for found, size in zip(whole.shape, shape, strict=True)]
        cropped = whole[starts[0] : starts[0] + shape[0], starts[1] : starts[1] + shape[1]]
        return cropped * scaling


class WrittenOut(Edit):
    """FRoD with its sparse matrix written out, as PEFT itself does in half precision."""

    key = "dense"

    def _get_frod_tensors(
        self: Any, adapter: str, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The factors U (out, in) and V (in, in), the sparse matrix (in, in), and the scales (in,)."""
        left, right = (
            tensors[adapter].to(device=device, dtype=dtype) for tensors in (self.frod_U, self.frod_V)
        )
        rows, columns = self.frod_s_indices[adapter].to(device)
        values = self.frod_lambda_s_values[adapter].to(device=device, dtype=dtype)
        dense = _scattered(values, rows, columns, tuple(right.shape))
        return left, right, dense, self.frod_lambda_l[adapter].to(device=device, dtype=dtype)

    def _sparse_activation_mm(self, latent: Tensor, matrix: Tensor) -> Tensor:
        """Latents (N, in) times the matrix (in, in), transposed."""
        return latent @ matrix.t()


def own_projections(layer: Any) -> None:
    """Make the tensors that layers of FRoD share, and their own frozen factor, a part of the layer and of its state.

    PEFT keeps them at its model, which does not exist here.
    """
    for name in ("frod_V", "frod_s_indices", "frod_s_size"):
        shared = vars(layer).pop(name)
        layer.add_module(name, shared)
    layer.frod_U._non_persistent_buffers_set.clear()


def without_factors(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a state as a file holds them: FRoD's U, as large as the weights, follows from them and V.

    Args:
        kind: PEFT type.
        tensors: By state-dict name.
    """
    return {name: tensor for name, tensor in tensors.items() if kind != "FROD" or _FACTOR not in name}


def complete(kind: str, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `without_factors`.

    Args:
        kind: PEFT type.
        tuned: The model, with the backbone's weights.
        tensors: By state-dict name, as a file holds them.
    """
    if kind != "FROD":
        return dict(tensors)
    found = dict(tensors)
    for name, own in tuned.state().items():
        path, factor, adapter = name.partition(_FACTOR)
        if not factor:
            continue
        module: Any = tuned.model.get_submodule(path)
        layer = module.vitune.peft
        # Several layers share a V; it is in the file by the name of the first.
        shared = next((n for n, b in tuned.model.named_buffers() if b is layer.frod_V[adapter]), "")
        if shared in tensors:
            made, _ = layer._calculate_frod_u_and_lambda(tensors[shared], module.weight)
            found[name] = made.to(device=own.device, dtype=own.dtype)
    return found


def _scattered(values: Tensor, rows: Tensor, columns: Tensor, shape: Any) -> Tensor:
    """A matrix that is zero but for values at given places, each named once."""
    return values.new_zeros(tuple(shape)).index_put((rows, columns), values)

"""Devices, precision and processes, which Accelerate knows about."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from vitune.errors import ConfigError
from vitune.training.config import Device, Precision


def make_accelerator(device: Device, precision: Precision, *, uneven_gradients: bool = False) -> Accelerator:
    """The accelerator of one run, in one or several processes (torchrun, accelerate launch).

    Args:
        device: Where to compute.
        precision: In which precision.
        uneven_gradients: Whether a step may leave trainable parameters without a gradient.

    Raises:
        ConfigError: If the device is not there, or cannot compute in that precision.
    """
    _check_device(device)
    # Accelerate's state outlives an Accelerator and refuses another device or precision; runs here are
    # independent.
    # A process group that exists is kept and joined again.
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = _mixed_precision(precision, torch.device(PartialState(cpu=device == "cpu").device or "cpu"))
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=mixed,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=uneven_gradients)],
    )


def _check_device(device: Device) -> None:
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device in there and not there[device]():
        raise ConfigError(f"The device '{device}' is not available on this machine; use 'auto' or 'cpu'.")


def _mixed_precision(precision: Precision, device: torch.device) -> str:
    if precision == "auto":
        return "bf16" if _is_quick_in_bf16(device) else "no"
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"Precision fp16 needs a CUDA device, and this is '{device.type}'; use bf16 or fp32."
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("This GPU cannot compute in bf16; use fp16 or fp32.")
    return "no" if precision == "fp32" else precision


def _is_quick_in_bf16(device: torch.device) -> bool:
    """Whether there are instructions for bf16; a CPU without them emulates it, which takes longer than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # AVX512-BF16; what has AMX has it too. Older releases of torch do not tell, other processors have no such function.
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and check is not None and bool(check())

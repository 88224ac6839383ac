from __future__ import annotations

import pytest
import torch

from vitune.errors import ConfigError
from vitune.training.devices import make_accelerator


def test_runs_of_different_precision_follow_each_other() -> None:
    found = []
    for precision in ("fp32", "bf16", "auto"):
        accelerator = make_accelerator("cpu", precision)
        with accelerator.autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        found.append((accelerator.mixed_precision, product.dtype, accelerator.device.type))
    plain = ("no", torch.float32, "cpu")
    assert found == [plain, ("bf16", torch.bfloat16, "cpu"), plain]


@pytest.mark.parametrize(("supported", "found"), [(True, "bf16"), (False, "no")])
def test_auto_is_bf16_on_a_cpu_that_has_it(
    supported: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert make_accelerator("cpu", "auto").mixed_precision == found
    assert make_accelerator("cpu", "fp32").mixed_precision == "no"


def test_auto_is_fp32_where_torch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert make_accelerator("cpu", "auto").mixed_precision == "no"


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(
        ConfigError, match="Precision fp16 needs a CUDA device, and this is 'cpu'; use bf16 or"
    ):
        make_accelerator("cpu", "fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="The device 'cuda' is not available on this machine; use 'auto'"):
        make_accelerator("cuda", "auto")

from __future__ import annotations

import subprocess
import sys

import pytest

import vitune.data


def test_every_public_name_can_be_imported():
    assert sorted(vitune.data._EXPORTS) == sorted(vitune.data.__all__)
    for name in vitune.data.__all__:
        assert getattr(vitune.data, name).__module__ == vitune.data._EXPORTS[name]
    assert set(vitune.data.__all__) <= set(dir(vitune.data))


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"module 'vitune\.data' has no attribute 'open_sorce'"):
        _ = vitune.data.open_sorce


def test_listing_data_loads_neither_torch_nor_timm(tmp_path, class_folders):
    class_folders(tmp_path)
    code = (
        "import sys, vitune.data; vitune.data.open_source(sys.argv[1]).describe(); "
        "print([name for name in ('torch', 'torchvision', 'timm', 'pyarrow') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"

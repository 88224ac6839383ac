import json
import subprocess
import sys

from vitune.measure import machine, versions


def test_versions_need_no_heavy_import():
    code = (
        "import sys, vitune.measure as m; v = m.versions(); "
        "assert v['python'] and v['torch'] and v['timm'], v; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_absent_packages_are_none(monkeypatch):
    monkeypatch.setattr(
        sys.modules["vitune.measure.machine"], "PACKAGES", ("torch", "no-such-package-at-all")
    )
    found = versions()
    assert found["no-such-package-at-all"] is None
    assert found["torch"]


def test_machine_is_json_with_all_keys():
    found = json.loads(json.dumps(machine()))
    assert set(found) == {"platform", "cpu", "cores", "threads", "memory_bytes", "gpus", "cuda"}
    assert found["cores"] >= 1
    assert found["threads"] >= 1
    assert found["cpu"]
    assert found["memory_bytes"] is None or found["memory_bytes"] > 2**20

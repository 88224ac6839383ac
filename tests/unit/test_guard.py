"""The numbers of every method beside those that lie in the repository; see benchmarks/guard.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import guard


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    return guard.make_data(tmp_path_factory.mktemp("guard"))


@pytest.mark.parametrize("method", guard.guarded())
def test_no_number_has_moved(method: str, data: Path, tmp_path: Path):
    moved = guard.differences(method, guard.read_stored().get(method), guard.measure(method, data, tmp_path))
    assert not moved, "\n".join([*moved, f"if that is meant, store the new numbers: {guard.AGAIN}"])


def test_what_is_stored_is_what_is_guarded():
    assert tuple(guard.read_stored()) == guard.guarded()
    assert json.loads(guard.RESULT.read_text())["tolerances"] == guard.TOLERANCES


NUMBERS = {"accuracy": 0.9, "trained_parameters": 1000, "file_bytes": 4096}


@pytest.mark.parametrize(
    ("method", "changes", "moved"),
    [
        ("ssf", {"accuracy": 0.925}, []),
        ("ssf", {"accuracy": 0.86}, ["ssf: accuracy was 0.9 and is 0.86 (-4.44 %)"]),
        ("ssf", {"file_bytes": 4097}, ["ssf: file_bytes was 4096 and is 4097 (+0.02 %)"]),
        ("spt", {"trained_parameters": 1010}, []),
        ("spt", {"trained_parameters": 1011}, ["spt: trained_parameters was 1000 and is 1011 (+1.10 %)"]),
        ("ssf", {"flops_per_image": 5}, ["ssf: flops_per_image was None and is 5"]),
    ],
)
def test_what_counts_as_moved(method: str, changes: dict, moved: list[str]):
    assert guard.differences(method, NUMBERS, {**NUMBERS, **changes}) == moved


def test_a_method_without_numbers_is_told():
    assert guard.differences("new", None, NUMBERS) == ["new: not in guard.json"]

from __future__ import annotations

import pytest

from vitune.data import open_samples, open_source
from vitune.data.corruptions import ALEXNET_ERROR, part_of, parts_of
from vitune.errors import DataError


def test_corruptions_and_severities_are_one_test_split(tmp_path, class_folders):
    for part in ("fog/1", "fog/5", "snow/3"):
        class_folders(tmp_path / part, ("ant", "bee"), count=2)
    samples = open_samples(tmp_path, ("bee", "ant"))
    assert len(samples) == 12
    assert samples.name(0) == "fog/1/ant/0.png"
    assert samples.labels == [1, 1, 0, 0] * 3
    assert {part_of(samples.name(i)) for i in range(12)} == {("fog", "1"), ("fog", "5"), ("snow", "3")}
    with pytest.raises(DataError, match="has no training split, only test"):
        open_source(tmp_path)


def test_groups_of_corruptions(tmp_path, class_folders):
    class_folders(tmp_path / "noise/shot_noise/2")
    class_folders(tmp_path / "weather/fog/4")
    class_folders(tmp_path / "noise/README/2")
    assert [(p.corruption, p.severity) for p in parts_of(tmp_path)] == [("fog", "4"), ("shot_noise", "2")]
    samples = open_samples(tmp_path, ("ant", "bee"))
    assert {part_of(samples.name(i)) for i in range(len(samples))} == {("fog", "4"), ("shot_noise", "2")}


def test_a_class_called_snow_is_no_corruption(tmp_path, class_folders):
    class_folders(tmp_path, ("snow", "rain"))
    assert open_source(tmp_path).class_names == ("rain", "snow")


def test_an_empty_part(tmp_path, class_folders):
    class_folders(tmp_path / "fog/1")
    (tmp_path / "fog/2/ant").mkdir(parents=True)
    with pytest.raises(DataError, match=r"fog/2' holds no class folders with images; fill or remove it"):
        open_samples(tmp_path, ("ant", "bee"))


def test_the_benchmark_has_15_corruptions():
    assert len(ALEXNET_ERROR) == 15
    # A checksum of the published errors.
    assert sum(ALEXNET_ERROR.values()) / 15 == pytest.approx(0.789, abs=5e-4)

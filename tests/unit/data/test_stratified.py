from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitune.data import open_source
from vitune.data.listing import FileImages, Layout, Listing
from vitune.data.stratified import check_val_fraction, hold_out
from vitune.errors import ConfigError, DataError


def layout(tmp_path, counts: dict[str, int]) -> Layout:
    classes = [name for name, count in counts.items() for _ in range(count)]
    names = [f"{name}/{number}.png" for name, count in counts.items() for number in range(count)]
    return Layout("folder", tmp_path, {"train": Listing.all_of(FileImages(tmp_path, names), classes)})


def test_shares_of_each_class(tmp_path):
    split = hold_out(layout(tmp_path, {"a": 10, "b": 5, "c": 2, "d": 1}), 0.2, 0)
    val = split.listings["val"]
    held = [val.classes[position] for position in val.positions]
    assert {name: held.count(name) for name in "abcd"} == {"a": 2, "b": 1, "c": 1, "d": 0}


@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=5).filter(lambda c: max(c) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_splits_are_disjoint_complete_and_in_order(counts, fraction, seed, tmp_path_factory):
    found = layout(tmp_path_factory.getbasetemp(), {f"c{i}": count for i, count in enumerate(counts)})
    split = hold_out(found, fraction, seed)
    train, val = (list(split.listings[name].positions) for name in ("train", "val"))
    assert sorted(train + val) == list(range(sum(counts)))
    assert train == sorted(train)
    assert val == sorted(val)
    kept = {split.listings["train"].classes[position] for position in train}
    assert len(kept) == len(counts)
    assert split.rule == hold_out(found, fraction, seed).rule


def test_seed_decides(tmp_path):
    found = layout(tmp_path, {"a": 20, "b": 20})
    chosen = {tuple(hold_out(found, 0.5, seed).rule["validation"]["val"]) for seed in range(5)}
    assert len(chosen) == 5


def test_rule_is_pinned(tmp_path):
    # A change here would let the validation images of an older run into training.
    rule = hold_out(layout(tmp_path, {"a": 6, "b": 6}), 0.34, 3).rule["validation"]
    assert rule["val"] == ["a/0.png", "a/3.png", "b/0.png", "b/2.png"]
    assert sorted(rule["train"] + rule["val"]) == sorted(f"{c}/{i}.png" for c in "ab" for i in range(6))
    assert (rule["seed"], rule["val_fraction"]) == (3, 0.34)


def test_an_added_image_moves_few_others(tmp_path):
    before = set(hold_out(layout(tmp_path, {"a": 40, "b": 40}), 0.25, 0).rule["validation"]["val"])
    after = set(hold_out(layout(tmp_path, {"a": 41, "b": 40}), 0.25, 0).rule["validation"]["val"])
    assert len(before - after) <= 1


def test_nothing_to_hold_out(tmp_path):
    with pytest.raises(
        DataError, match=r"has one training image only, so none can be held out .* val_fraction to 0"
    ):
        hold_out(layout(tmp_path, {"a": 1, "b": 1}), 0.2, 0)
    split = hold_out(layout(tmp_path, {"a": 1, "b": 1}), 0, 0)
    assert list(split.listings) == ["train"]
    assert split.rule == {"validation": {"rule": "none"}}


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_fraction_out_of_range(tmp_path, class_folders, fraction):
    with pytest.raises(ConfigError, match="val_fraction must be at least 0 and below 1, not"):
        check_val_fraction(fraction)
    with pytest.raises(ConfigError, match="val_fraction must be"):
        open_source(class_folders(tmp_path), val_fraction=fraction)

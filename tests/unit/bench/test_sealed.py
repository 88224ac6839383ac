import pytest

from vitune.bench import once, sealed
from vitune.errors import DataError

from .fakes import FakeSource


@pytest.mark.parametrize("guard", [sealed, once])
def test_what_is_not_the_test_split_passes(guard):
    data = guard(FakeSource())
    assert data.class_names == ("a", "b")
    assert data.kind == "folder"
    assert data.split("train") == ["train-1", "train-2"]
    assert data.split("val") == ["val-1", "val-2"]
    assert data.describe() == {"kind": "folder"}
    with pytest.raises(DataError, match="may use the splits 'train' and 'val', not 'test'"):
        data.split("test")


def test_sealed_never_opens():
    data = sealed(FakeSource())
    assert not data.has_test
    for reason in ("evaluate", "final"):
        with pytest.raises(DataError, match=f"sealed while settings are chosen .*reason '{reason}'"):
            data.open_test(reason)


def test_sealed_has_no_other_way_in():
    reachable = [name for name in dir(sealed(FakeSource())) if not name.startswith("_")]
    assert sorted(reachable) == ["class_names", "describe", "has_test", "kind", "open_test", "split"]


def test_once_opens_once_and_for_the_end_only():
    data = once(FakeSource())
    assert data.has_test
    with pytest.raises(DataError, match="with reason 'final', not 'evaluate'"):
        data.open_test("evaluate")
    assert data.open_test("final") == ["test-1"]
    with pytest.raises(DataError, match="this is the second time"):
        data.open_test("final")

import json
from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.report.fields import Fields, read_object


def fields(**values: object) -> Fields:
    return Fields(values, "run/result.json", "costs.")


def test_missing_and_null_are_none() -> None:
    assert fields().integer("n") is None
    assert fields(n=None).number("n") is None
    assert fields().texts("names") == ()
    assert fields().objects("edits") == []
    assert fields(costs=None).mapping("costs").values == {}


def test_values_come_back() -> None:
    assert fields(n=3).integer("n") == 3
    assert fields(n=3).number("n") == 3.0
    assert fields(a=0.5).share("a") == 0.5
    assert fields(t="x").text("t") == "x"
    assert fields(names=["a", "b"]).texts("names") == ("a", "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_count_as_not_measured(value: float) -> None:
    assert fields(loss=value).number("loss") is None


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("integer", "3", r"'costs\.key' should be a whole number or null, found \"3\""),
        ("integer", 3.5, "should be a whole number or null, found 3.5"),
        ("integer", True, "should be a whole number or null, found true"),
        ("integer", -1, "should be a whole number of at least 0 or null, found -1"),
        ("number", [1], r"should be a number or null, found \[1\]"),
        ("share", 91.0, "should be a share between 0 and 1 or null, found 91.0"),
        ("text", 3, "should be a text or null, found 3"),
        ("mapping", [], r"should be an object or null, found \[\]"),
        ("objects", {}, r"should be a list or null, found \{\}"),
        ("objects", [3], r"'costs\.key\[0\]' should be an object or null, found 3"),
        ("texts", ["a", 3], r"'costs\.key\[1\]' should be a text or null, found 3"),
    ],
)
def test_wrong_types_name_file_key_and_value(method: str, value: object, expected: str) -> None:
    with pytest.raises(RunError, match=expected) as caught:
        getattr(fields(key=value), method)("key")
    assert str(caught.value).startswith("run/result.json: ")


def test_long_values_are_cut_in_the_error() -> None:
    with pytest.raises(RunError) as caught:
        fields(key="x" * 500).integer("key")
    assert len(str(caught.value)) < 250


def test_nested_keys_are_named_in_full() -> None:
    with pytest.raises(RunError, match=r"'costs\.inner\.n' should be"):
        fields(inner={"n": "x"}).mapping("inner").integer("n")
    with pytest.raises(RunError, match=r"'costs\.edits\[1\]\.n' should be"):
        fields(edits=[{}, {"n": "x"}]).objects("edits")[1].integer("n")


def test_read_object(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"n": 3}))
    assert read_object(path).integer("n") == 3


def test_read_object_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(RunError, match=r"a\.json is not valid JSON"):
        read_object(path)
    path.write_text("[1]")
    with pytest.raises(RunError, match=r"a\.json should hold a JSON object, found a list"):
        read_object(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match=r"a\.json is not valid JSON"):
        read_object(path)
    with pytest.raises(RunError, match=r"cannot be read: Is a directory"):
        read_object(tmp_path)

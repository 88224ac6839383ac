import pytest

from vitune.report import units


@pytest.mark.parametrize(
    "show", [units.count, units.size, units.flops, units.seconds, units.percent, units.decimal]
)
def test_none_is_not_measured(show) -> None:
    assert show(None) == "not measured"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((0, "0"), (999, "999"), (53_386, "53,386"), (100_000, "100 thousand"), (999_700, "1 million")),
        *(
            (5_530_000, "5.53 million"),
            (86_567_656, "86.6 million"),
            (304e6, "304 million"),
            (1.1e9, "1.1 billion"),
        ),
    ],
)
def test_count(value: float, words: str) -> None:
    assert units.count(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((0, "0"), (384, "384"), (999, "999"), (1000, "1k"), (1152, "1.2k"), (9_960, "10k")),
        *(
            (295_296, "295k"),
            (999_600, "1M"),
            (2_400_000, "2.4M"),
            (86_000_000, "86M"),
            (1_100_000_000, "1.1G"),
        ),
    ],
)
def test_short_count_has_at_most_four_characters(value: int, words: str) -> None:
    assert units.short_count(value) == words
    assert len(words) <= 4


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_999, "1 MB"), (229e6, "229 MB")],
)
def test_size(value: float, words: str) -> None:
    assert units.size(value) == words


def test_split_words() -> None:
    words = [units.split_words(split) for split in ("val", "test", "train", "other")]
    assert words == ["validation", "test", "training", "other"]


def test_flops() -> None:
    assert units.flops(1.0785e9) == "1.08 GFLOPs"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *(
            (0.00002, "20 \u00b5s"),
            (0.0131, "13.1 ms"),
            (0.9999, "1 s"),
            (4.25, "4.25 s"),
            (59.7, "1 min 00 s"),
        ),
        *((86.0, "1 min 26 s"), (7500, "2 h 05 min")),
    ],
)
def test_seconds(value: float, words: str) -> None:
    assert units.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "100.0"),
        (0.0994, "9.9"),
        (0.0099, "0.99"),
        (0.00036, "0.036"),
        (1e-7, "less than 0.001"),
        (0.0, "0"),
    ],
)
def test_small_percent(value: float, words: str) -> None:
    assert units.small_percent(value) == f"{words}\u00a0%"


def test_percent_and_decimal() -> None:
    assert units.percent(0.913) == "91.3\u00a0%"
    assert units.decimal(0.31244) == "0.3124"


@pytest.mark.parametrize(
    ("value", "full", "words"),
    [
        (53_386, 5_370_000, "101 times fewer than full fine-tuning"),
        (100, 450, "4.5 times fewer than full fine-tuning"),
        (70, 100, "30\u00a0% fewer than full fine-tuning"),
        (240, 229, "5\u00a0% more than full fine-tuning"),
        (300, 100, "3.0 times more than full fine-tuning"),
        (1000, 1001, "the same as full fine-tuning"),
        *((None, 1, None), (1, None, None), (0, 5, None)),
    ],
)
def test_beside_full(value: float | None, full: float | None, words: str | None) -> None:
    assert units.beside_full(value, full, "fewer", "more") == words

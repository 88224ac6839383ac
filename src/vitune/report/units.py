"""Words for numbers, with units, few digits and "not measured" where there is none, and for splits."""

from __future__ import annotations

NOT_MEASURED = "not measured"
SPLIT_WORDS = {"val": "validation", "train": "training"}


def count(value: float | None) -> str:
    """A count in full up to 99,999, then in thousands, millions or billions: `5.53 million`."""
    if value is None:
        return NOT_MEASURED
    if value < 100_000:
        return f"{value:,.0f}"
    return _scaled(value, 1000, ("", "thousand", "million", "billion", "trillion"))


def short_count(value: int) -> str:
    """A count in at most four characters: `384`, `1.2k`, `295k`, `2.4M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995 and value >= 1000:
            scaled = value / limit
            return (f"{scaled:.1f}" if scaled < 9.95 else f"{scaled:.0f}").removesuffix(".0") + unit
    return str(value)


def size(value: float | None) -> str:
    """Bytes in decimal units: `1.34 MB`."""
    return NOT_MEASURED if value is None else _scaled(value, 1000, ("bytes", "kB", "MB", "GB", "TB"))


def flops(value: float | None) -> str:
    """Floating point operations: `1.08 GFLOPs`."""
    return (
        NOT_MEASURED
        if value is None
        else _scaled(value, 1000, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs"))
    )


def seconds(value: float | None) -> str:
    """A duration: `3.2 ms`, `12 s`, `4 min 10 s`, `2 h 05 min`."""
    if value is None:
        return NOT_MEASURED
    if value < 0.9995:
        return f"{value * 1e6:.3g} \u00b5s" if value < 0.9995e-3 else f"{value * 1e3:.3g} ms"
    whole = round(value)
    if whole < 60:
        return f"{value:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(value: float | None) -> str:
    """A share in percent with one decimal: `91.0 %`."""
    return NOT_MEASURED if value is None else f"{value * 100:.1f}\u00a0%"


def small_percent(value: float) -> str:
    """A share in percent, with two digits where it is small: `0.036 %`, `99.4 %`."""
    if 0 < value < 1e-5:
        return "less than 0.001\u00a0%"
    return f"{value * 100:.2g}\u00a0%" if value < 0.0995 else percent(value)


def decimal(value: float | None) -> str:
    """A plain number with four significant digits."""
    return NOT_MEASURED if value is None else f"{value:.4g}"


def split_words(split: str) -> str:
    """The word for a split: `val` is validation."""
    return SPLIT_WORDS.get(split, split)


def beside_full(
    value: float | None, full: float | None, less: str = "less", more: str = "more"
) -> str | None:
    """How a cost compares with that of full fine-tuning, in words.

    Args:
        value: The cost.
        full: That of full fine-tuning.
        less: The word for a smaller cost: less, fewer, shorter ...
        more: The word for a larger cost.

    Returns:
        The words, or None where one of the two is unknown or zero.
    """
    if not value or not full:
        return None
    times = max(full / value, value / full)
    if times < 1.005:
        return "the same as full fine-tuning"
    word = less if value < full else more
    if times < 1.5:
        return f"{abs(value / full - 1) * 100:.0f}\u00a0% {word} than full fine-tuning"
    amount = f"{times:,.0f}" if times >= 9.95 else f"{times:.1f}"
    return f"{amount} times {word} than full fine-tuning"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    # 999.7 would be printed as 1000, so it moves on to the next unit.
    while abs(value) >= base * 0.9995 and power < len(units) - 1:
        value /= base
        power += 1
    digits = f"{value:.0f}" if power == 0 or abs(value) >= 99.95 else f"{value:.3g}"
    return f"{digits} {units[power]}".rstrip()

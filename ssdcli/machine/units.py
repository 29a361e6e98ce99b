"""Numbers as people read them: counts with their nouns, large numbers, sizes in memory, durations."""

from __future__ import annotations

_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6))
GIB = 1 << 30


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 file`, `1,684 documents`."""
    if count == 1:
        return f"1 {noun}"
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {plural}"


def large(number: int, unit: str = "") -> str:
    """A number with its unit, from a million on to three digits: `9,412`, `1.84 M`, `3.2 GFLOP`, `14.9 GB`."""
    rounded = float(f"{number:.3g}")
    for prefix, size in _PREFIXES:
        if rounded >= size:
            return f"{rounded / size:g} {prefix}{unit}"
    return f"{number:,} {unit}".rstrip()


def in_parameters(count: int) -> str:
    """A number of parameters as it is usually written: `5.31M`, `8.02B`."""
    return large(count).replace(" G", "B").replace(" ", "")


def in_bytes(size: int) -> str:
    """A size in memory: `15.7 GiB`, `320 MiB`."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (GIB >> 10):.0f} MiB"


def duration(seconds: float) -> str:
    """A time: `1 h 2 min`, `12 min 34 s`, `8 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""Bytes and seconds as people write and read them. Pure: no clock, no configuration."""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": KB, "kb": KB, "m": MB, "mb": MB, "g": GB, "gb": GB, "t": TB, "tb": TB,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB,
}  # fmt: skip
_TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_ISO_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII)


def parse_bytes(text: str) -> int:
    """`"10 GB"` -> 10_000_000_000, `"4KiB"` -> 4096; bytes. Raises ValueError."""
    return int(_parse(text, {key: float(value) for key, value in _SIZE_UNITS.items()}, "size"))


def parse_seconds(text: str) -> float:
    """`"10min"` -> 600.0, `"2 d"` -> 172800.0; seconds. Raises ValueError."""
    return _parse(text, _TIME_UNITS, "time")


def _parse(text: str, units: dict[str, float], what: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not a {what}; write a number and one of {', '.join(filter(None, units))}")
    return float(match[1]) * units[match[2].lower()]


def parse_iso_duration(text: str) -> float:
    """ISO 8601 duration of weeks, days, hours, minutes, seconds -> seconds. Raises ValueError."""
    match = _ISO_DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r} is not an ISO 8601 duration such as PT1H or P2D")
    weeks, days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((weeks * 7 + days) * 24 + hours) * 3600 + minutes * 60 + seconds


def show_bytes(count: float) -> str:
    """1234567 -> `1.2 MB`; decimal units, as drives and tapes are sold."""
    for unit, size in (("TB", TB), ("GB", GB), ("MB", MB), ("kB", KB)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"


def show_seconds(seconds: float) -> str:
    """5423 -> `1 h 30 min`; at most two units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def show_about(seconds: float) -> str:
    """700 -> `about 12 min`: what is only expected, in one unit and with no more figures than anybody can know."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 55:
        return f"about {max(1, round(seconds / 10)) * 10} s"
    for unit, size, most in (("min", 60, 90), ("h", 3600, 36)):
        count = max(1, round(seconds / size))
        if count <= most:
            return f"about {count} {unit}"
    return f"about {round(seconds / 86400)} days"

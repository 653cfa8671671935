"""Which bytes a GET asks for, and under which condition. Pure: header text in, a slice out (RFC 9110, 13 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from catalog.errors import BadRange

_ONE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    offset: int
    #: at least 1
    length: int


def wanted(header: str | None, if_range: str | None, size: int, etag: str) -> Slice | None:
    """The slice of one range; None for the whole file: no range, a malformed one, several (the standard allows that),
    or an If-Range that names other content. Raises BadRange for one that lies outside."""
    if header is None or (if_range is not None and if_range.strip() != f'"{etag}"'):
        return None
    match = _ONE.fullmatch(header)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        if length == 0:
            raise BadRange(range=header.strip(), size=size)
        return Slice(offset=size - length, length=length)
    first = int(match[1])
    last = size - 1 if match[2] == "" else min(int(match[2]), size - 1)
    if match[2] != "" and int(match[2]) < first:
        return None
    if first >= size:
        raise BadRange(range=header.strip(), size=size)
    return Slice(offset=first, length=last - first + 1)


def none_match(header: str | None, etag: str) -> bool:
    """Whether If-None-Match says that the client has this content already."""
    if header is None:
        return False
    return any(part.strip().removeprefix("W/") in ("*", f'"{etag}"') for part in header.split(","))

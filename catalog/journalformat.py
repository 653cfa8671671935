"""A segment of the journal as bytes: gzip of JSON lines, a head and then the changes. Pure.

    {"format":"capstan-journal 1","catalog_id":…,"incarnation":…,"number":…,"previous":…,"first_seq":…,"last_seq":…}
    {"seq":…,"kind":"node"|"directory"|"file"|"replica","id":…,"removed":false,"entry":{…}}
    {"seq":…,"kind":"drive"|"volume","id":0,"removed":false,"entry":{"name":…,…}}

Who reads a journal back begins with the segment of the highest number and follows `previous` (0: there is none before
it). What is not on that way is of a life of the catalog that a restore ended, and does not count. Of each (kind, id)
the change with the highest seq is all that is true, and of each (kind, name) of drives and volumes, which have no ids;
segments may overlap in seq, and one may be there twice.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

FORMAT = "capstan-journal 1"
#: of the file in the namespace and below the configured directory
SUFFIX = ".jsonl.gz"
NUMBER_DIGITS = 10
_COMPRESSION = 6


class BadSegment(ValueError):
    """What should be a segment of the journal is none, or is damaged."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line; keys of later releases are passed over, another format is refused."""

    format: str = FORMAT
    catalog_id: str
    incarnation: str
    number: int
    previous: int
    first_seq: int
    last_seq: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One change: what the object is from then on. `entry` as the triggers of the schema make it."""

    seq: int
    kind: str
    id: int
    removed: bool = False
    entry: msgspec.Raw = msgspec.Raw(b"{}")

    def fields(self) -> dict[str, object]:
        return msgspec.json.decode(self.entry, type=dict[str, object])


_ENCODER = msgspec.json.Encoder()
_HEAD = msgspec.json.Decoder(Head)
_ENTRY = msgspec.json.Decoder(Entry)


def segment_name(number: int) -> str:
    return f"{number:0{NUMBER_DIGITS}d}{SUFFIX}"


def number_of(name: str) -> int | None:
    """The reverse of `segment_name`; None for another file's name."""
    digits = name.removesuffix(SUFFIX)
    return int(digits) if name == digits + SUFFIX and len(digits) >= NUMBER_DIGITS and digits.isdecimal() else None


def encode_segment(head: Head, entries: Sequence[Entry]) -> bytes:
    """The same head and entries always give the same bytes."""
    lines = bytearray()
    for line in (head, *entries):
        _ENCODER.encode_into(line, lines, len(lines))
        lines += b"\n"
    return gzip.compress(lines, compresslevel=_COMPRESSION, mtime=0)


def decode_segment(data: bytes) -> tuple[Head, list[Entry]]:
    """Raises BadSegment."""
    try:
        first, *rest = gzip.decompress(data).splitlines()
        head = _HEAD.decode(first)
        if head.format != FORMAT:
            raise BadSegment(f"its format is {head.format!r}, not {FORMAT!r}")
        return head, [_ENTRY.decode(line) for line in rest]
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise error if isinstance(error, BadSegment) else BadSegment(str(error) or "it is empty") from error


def counting(heads: Mapping[int, Head]) -> Iterator[int]:
    """Numbers of the segments that count, the newest first, of all that were found.

    Raises BadSegment when one that is named as `previous` is missing: the changes in it are lost.
    """
    number = max(heads, default=0)
    while number:
        if number not in heads:
            raise BadSegment(f"segment {number} is missing")
        yield number
        if heads[number].previous >= number:
            raise BadSegment(f"segment {number} names {heads[number].previous} as the one before it")
        number = heads[number].previous

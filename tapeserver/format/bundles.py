"""Many small files in one tape file: where each lies in its archive, and the list of them that is the first member.

A list is JSON lines, one for each member in order. The offsets in it have a fixed width, so that all of them are known
before the first byte is written. Pure: lays out and parses; docs/storage.md has every byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from tapeserver.format.pax import END_OF_ARCHIVE, OWN_HEADER_BYTES, BadMember, OwnMember, archive_bytes, padding

OFFSET_WIDTH = 14
MEMBERS_MAX = 10_000
"""A bundle of more files becomes several tape files."""

LIST_BYTES_MAX = MEMBERS_MAX * 32 * 1024
"""No list that is longer is believed: a path of 4,096 bytes has at most 24,576 as escapes."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class ListEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A member as the list tells of it. `offset` is the place of its first byte of data in the archive."""

    file_id: _Count
    path: str
    size: _Count
    adler32: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]
    offset: _Count


_entry = msgspec.json.Decoder(ListEntry)


@dataclass(frozen=True, slots=True)
class Layout:
    """An archive before it is written: the list (empty: there is none), each member's place, the length of it all."""

    list_data: bytes
    offsets: list[int]
    archive_bytes: int


def list_path(volume: str, generation: int, tape_file: int) -> str:
    """The name of the list in the archive."""
    return f"capstan-bundle/{volume}-{generation}-{tape_file}.jsonl"


def list_line(file_id: int, path: str, size: int, adler32: str) -> bytes:
    """The line of a member in the list, up to its offset."""
    return b'{"file_id":%d,"path":%s,"size":%d,"adler32":"%s","offset":' % (
        file_id, msgspec.json.encode(path), size, adler32.encode("ascii")
    )  # fmt: skip


def lay_out(members: Sequence[tuple[bytes, bytes, int]]) -> Layout:
    """A bundle of these: (line from `list_line`, archive headers, size) of each. Raises ValueError when too large."""
    lines_bytes = sum(len(line) for line, _, _ in members) + len(members) * (OFFSET_WIDTH + 2)
    at = OWN_HEADER_BYTES + lines_bytes + padding(lines_bytes)
    offsets, lines = [], []
    for line, headers, size in members:
        at += len(headers)
        offsets.append(at)
        lines.append(b"%s%*d}\n" % (line, OFFSET_WIDTH, at))
        at += size + padding(size)
    if at >= 10**OFFSET_WIDTH:
        raise ValueError(f"a bundle of {at} bytes is too large")
    return Layout(b"".join(lines), offsets, at + len(END_OF_ARCHIVE))


def lay_out_one(headers: bytes, size: int) -> Layout:
    """A file that has an archive of its own: no list."""
    return Layout(b"", [len(headers)], archive_bytes(len(headers), size))


def list_member(
    layout: Layout, *, volume: str, generation: int, catalog_id: str, tape_file: int, mtime_ns: int
) -> OwnMember:
    """The list as the first member of the archive."""
    return OwnMember(
        path=list_path(volume, generation, tape_file),
        kind="bundle-list",
        size=len(layout.list_data),
        mtime_ns=mtime_ns,
        generation=generation,
        catalog_id=catalog_id,
        members=len(layout.offsets),
    )


def parse_list(data: bytes | bytearray | memoryview) -> list[ListEntry]:
    """The members of a bundle, from the data of its list. Raises BadMember, and nothing else, for any bytes."""
    if not data or data[-1] != ord("\n") or len(data) > LIST_BYTES_MAX:
        raise BadMember(why="the list of the bundle is torn, empty or too long")
    entries: list[ListEntry] = []
    end = 0
    for line in bytes(data).split(b"\n")[:-1]:
        try:
            entry = _entry.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise BadMember(why=f"line {len(entries) + 1} of the list of the bundle: {exc}") from exc
        if entry.offset < end:
            raise BadMember(why=f"line {len(entries) + 1} of the list of the bundle begins before the last one ends")
        end = entry.offset + entry.size
        entries.append(entry)
    return entries

"""The index of a volume as bytes: gzip of JSON lines, a head, an entry for each copy by position, the dead tape files.

Pure, and strict in both directions: what is not exactly an index raises BadIndex, however it is broken, and no
more than a piece of it is held at a time. What stands in it is `catalog.tapeindex`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, TypeVar

import msgspec
from isal import isal_zlib

from catalog.errors import TapeError
from catalog.indexentry import Count, IndexDead, IndexEntry, Positive, Small

__all__ = ["FORMAT", "BadIndex", "Builder", "IndexDead", "IndexEntry", "IndexHead", "build", "member_name", "parse"]

FORMAT: Literal["capstan-index 1"] = "capstan-index 1"
LINE_BYTES_MAX = 256 * 1024
"""A path of 4,096 bytes, each as an escape of six, and digests and names beside it: generously."""

PIECE_BYTES = 256 * 1024
ENTRIES_MAX = 100_000_000
_GZIP = 31
_LEVEL = 2


class BadIndex(TapeError):
    """The index cannot be used: {why}."""

    code = "bad_index"


class IndexHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which volume it is of, and which of its tape files it tells of: all from the first to the last one."""

    format: Literal["capstan-index 1"] = FORMAT
    volume: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9]{1,6}$")]
    generation: Positive
    catalog_id: str
    pool: str
    kind: Literal["session", "full"]
    first_tape_file: Small
    #: of what it tells; its own tape file is behind it
    last_tape_file: Count
    #: object number of the HDR1 of the index before it; 0: none
    previous_index: Count
    #: copies that it tells of
    entries: Annotated[int, msgspec.Meta(ge=0, le=ENTRIES_MAX)]
    block_size: Positive


class _DeadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    dead: IndexDead


_T = TypeVar("_T")
_encoder = msgspec.json.Encoder()
_head = msgspec.json.Decoder(IndexHead)
_entry = msgspec.json.Decoder(IndexEntry)
_dead = msgspec.json.Decoder(_DeadLine)


def member_name(volume: str, generation: int, tape_file: int) -> str:
    """The name of an index's one member in the archive of its tape file."""
    return f"capstan-index/{volume}-{generation}-{tape_file}.jsonl.gz"


def build(head: IndexHead, entries: Iterable[IndexEntry], dead: Iterable[IndexDead] = ()) -> Iterator[bytes]:
    """The index in pieces of about PIECE_BYTES. `head.entries` entries, by position; same input, same bytes.

    Raises BadIndex for what `parse` would not take.
    """
    builder = Builder(head)
    for entry in entries:
        yield from builder.add([entry])
    yield from builder.finish(dead)


class Builder:
    """The same for entries that come page by page."""

    def __init__(self, head: IndexHead) -> None:
        self._squeeze = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP)
        self._order = _Order(head)
        self._out = bytearray(self._squeeze.compress(_line(head, _head)))

    def add(self, entries: Iterable[IndexEntry]) -> Iterator[bytes]:
        """The pieces that have become whole. Raises BadIndex."""
        for entry in entries:
            self._order.entry(entry)
            self._out += self._squeeze.compress(_line(entry, _entry))
            yield from self._whole()

    def finish(self, dead: Iterable[IndexDead] = ()) -> Iterator[bytes]:
        """The rest of it. Raises BadIndex."""
        for extent in dead:
            self._order.dead(extent)
            self._out += self._squeeze.compress(_line(_DeadLine(dead=extent), _dead))
            yield from self._whole()
        self._order.end()
        self._out += self._squeeze.flush()
        yield bytes(self._out)

    def _whole(self) -> Iterator[bytes]:
        if len(self._out) >= PIECE_BYTES:
            yield bytes(self._out)
            self._out.clear()


def _line(value: _T, decoder: msgspec.json.Decoder[_T]) -> bytes:
    try:
        line = _encoder.encode(value) + b"\n"
    except (msgspec.MsgspecError, ValueError) as exc:
        raise BadIndex(why=f"it cannot be written: {exc}") from exc
    if len(line) > LINE_BYTES_MAX:
        raise BadIndex(why=f"a line of {len(line)} bytes is longer than {LINE_BYTES_MAX}")
    # What nobody could read back must not get on a tape that is kept for decades.
    _decoded(decoder, line)
    return line


def parse(chunks: Iterable[bytes]) -> tuple[IndexHead, Iterator[IndexEntry | IndexDead]]:
    """The head, and what it tells: entries by position, then dead tape files. The iterator ends only if all was right.

    Raises BadIndex, at once or from the iterator; what was given out before is then no whole index.
    """
    lines = _split(_inflate(chunks))
    first = next(lines, None)
    if first is None:
        raise BadIndex(why="it is empty")
    head = _decoded(_head, first)
    return head, _parse_rest(head, lines)


def _parse_rest(head: IndexHead, lines: Iterator[bytes]) -> Iterator[IndexEntry | IndexDead]:
    order = _Order(head)
    for line in lines:
        if line.startswith(b'{"dead":'):
            extent = _decoded(_dead, line).dead
            order.dead(extent)
            yield extent
        else:
            entry = _decoded(_entry, line)
            order.entry(entry)
            yield entry
    order.end()


class _Order:
    """Entries strictly by position and within the head's tape files, then the dead ones; as many as the head says."""

    def __init__(self, head: IndexHead) -> None:
        self._head = head
        self._count = 0
        self._place: tuple[int, int, int] = (0, 0, 0)
        self._first_block = -1
        self._dead = 0

    def entry(self, entry: IndexEntry) -> None:
        # Empty members of a bundle share no offset, since each has a header; the file is asked for all the same.
        place = (entry.tape_file, entry.offset, entry.file_id)
        if self._dead or place <= self._place:
            raise BadIndex(why=f"tape file {entry.tape_file}, offset {entry.offset} is out of order")
        if (entry.tape_file == self._place[0]) != (entry.first_block == self._first_block) and self._count:
            raise BadIndex(why=f"tape file {entry.tape_file} is said to begin at block {entry.first_block}")
        self._within(entry.tape_file)
        self._place, self._first_block = place, entry.first_block
        self._count += 1

    def dead(self, extent: IndexDead) -> None:
        if extent.tape_file <= self._dead:
            raise BadIndex(why=f"dead tape file {extent.tape_file} is out of order")
        self._within(extent.tape_file)
        self._dead = extent.tape_file

    def end(self) -> None:
        if self._count != self._head.entries:
            raise BadIndex(why=f"it has {self._count} entries, and its head says {self._head.entries}")

    def _within(self, tape_file: int) -> None:
        if not self._head.first_tape_file <= tape_file <= self._head.last_tape_file:
            raise BadIndex(why=f"tape file {tape_file} is none of those that its head names")


def _decoded(decoder: msgspec.json.Decoder[_T], line: bytes) -> _T:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadIndex(why=str(exc)) from exc


def _inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of one gzip member, in pieces of at most PIECE_BYTES; its checksum is verified at the end."""
    stretch = isal_zlib.decompressobj(_GZIP)
    for chunk in chunks:
        if stretch.eof and chunk:
            raise BadIndex(why="something follows its end")
        while chunk and not stretch.eof:
            try:
                piece = stretch.decompress(chunk, PIECE_BYTES)
            except isal_zlib.IsalError as exc:  # type: ignore[misc]  # the stubs take it for an instance
                raise BadIndex(why=f"it is not gzip: {exc}") from exc
            chunk = stretch.unconsumed_tail
            yield piece
            while len(piece) == PIECE_BYTES and not chunk and not stretch.eof:
                piece = stretch.decompress(b"", PIECE_BYTES)
                yield piece
        if stretch.unused_data:
            raise BadIndex(why="something follows its end")
    if not stretch.eof:
        raise BadIndex(why="its end is missing")


def _split(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        if len(rest) > LINE_BYTES_MAX:
            raise BadIndex(why=f"a line is longer than {LINE_BYTES_MAX} bytes")
        yield from lines
    if rest:
        raise BadIndex(why="its last line is not whole")

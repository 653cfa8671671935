"""A tape file's archive while its files arrive: list, headers, data and what fills them up, cut into blocks.

Knows neither sockets nor drives: `fetchers` brings the bytes, and what is full goes out by `emit`. The good files are
always the first ones: at the first that goes wrong the archive ends behind the last good one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from catalog.errors import CapstanError
from tapeserver.format import pax
from tapeserver.format.bundles import Layout, lay_out, lay_out_one, list_line
from tapeserver.format.pax import END_OF_ARCHIVE, OWN_HEADER_BYTES, RECORD, Member, padding
from tapeserver.frames import Load, WriteItem

_ZEROS = bytes(RECORD)


Buffer = memoryview | None


@dataclass(frozen=True, slots=True)
class Part:
    """One file to fetch: its archive headers, and its line in a bundle's list."""

    item: WriteItem
    headers: bytes
    line: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """The first block of a tape file is there. A list's headers, which name the tape file, are left blank in it."""

    parts: Sequence[Part]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the tape file; give the buffer back when it was written. With it `good` files are whole and right."""

    buffer: memoryview
    length: int
    good: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The tape file is over: the first `good` files are right, the one behind them is not if there is an `error`."""

    good: int
    error: CapstanError | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of these files will come."""

    items: Sequence[WriteItem]
    error: CapstanError


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing more comes of the files that were added together."""


Message = Begun | Block | Ended | Refused | Over


class IncomingTapeFile:
    """Laid out when its first file really comes. `good` counts the files that were whole and right."""

    def __init__(
        self, parts: Sequence[Part], free_buffer: Callable[[], memoryview], emit: Callable[[Message], None]
    ) -> None:
        self._parts, self._free_buffer, self._emit_message = parts, free_buffer, emit
        self.good = 0
        self._layout: Layout | None = None
        self._buffer, self._filled = memoryview(b""), 0
        self._emitted = 0
        self._good_end = (0, 0)  # blocks emitted, bytes in the next one: where the last good file ends

    @property
    def next(self) -> Part | None:
        """The file that is to come; None when all did."""
        return self._parts[self.good] if self.good < len(self._parts) else None

    def add(self, data: memoryview) -> None:
        """The next file, whole and right."""
        part = self._parts[self.good]
        if self._layout is None:
            self._lay_out()
        at, headers, size = self._filled, part.headers, len(data)
        start = at + len(headers)
        end = start + size
        filled = end + padding(size)
        if filled <= len(self._buffer):
            buffer = self._buffer
            buffer[at:start] = headers
            buffer[start:end] = data
            buffer[end:filled] = _ZEROS[: filled - end]
            self._filled = filled
            self.good += 1
            self._good_end = (self._emitted, filled)
            return
        self._copy(headers)
        self._copy(data)
        self.finish()

    def begin(self) -> None:
        """The next file comes piece by piece: fill `places`, then `finish` if it is right."""
        if self._layout is None:
            self._lay_out()
        self._copy(self._parts[self.good].headers)

    def places(self, length: int) -> Iterator[memoryview]:
        """Where the next `length` bytes belong; each must be filled before the next is asked for."""
        while length:
            if self._filled == len(self._buffer):
                self._emit()
                self._buffer, self._filled = self._free_buffer(), 0
            count = min(length, len(self._buffer) - self._filled)
            yield self._buffer[self._filled : self._filled + count]
            self._filled += count
            length -= count

    def finish(self) -> None:
        """The file that was begun is whole and right."""
        size = self._parts[self.good].item.record.size
        self.good += 1  # before the padding, which may open a new block: the file's last byte is in the one before
        self._copy(_ZEROS[: padding(size)])
        self._good_end = (self._emitted, self._filled)

    def end(self, error: CapstanError | None) -> Buffer:
        """The tape file is over, whatever is left of it goes out; returns a buffer that is free again, if any.

        With an error: the file behind the good ones is not right, if there is one. If nothing of it and nothing good is
        out, it is refused, and there is no tape file.
        """
        if self.next is None:
            error = None
        if error is not None and self.good == 0 and self._emitted == 0:
            self._emit_message(Refused([self._parts[0].item], error))
            return self._buffer if self._layout is not None else None
        free: Buffer = None
        emitted, filled = self._good_end
        if error is None or emitted == self._emitted:
            self._filled = filled
            self._copy(END_OF_ARCHIVE)
            self._emit()
        else:
            # The good files' last bytes are out, and so is a part of the one that went wrong.
            free = self._buffer
        self._emit_message(Ended(self.good, error))
        return free

    def _lay_out(self) -> None:
        parts = self._parts
        if parts[0].item.bundle:
            members = [(part.line, part.headers, part.item.record.size) for part in parts]
            self._layout = lay_out(members)
        else:
            self._layout = lay_out_one(parts[0].headers, parts[0].item.record.size)
        self._buffer = self._free_buffer()
        if self._layout.list_data:
            self._copy(bytes(OWN_HEADER_BYTES) + self._layout.list_data)
            self._copy(_ZEROS[: padding(len(self._layout.list_data))])
        self._good_end = (self._emitted, self._filled)

    def _copy(self, data: bytes | memoryview) -> None:
        at = 0
        for place in self.places(len(data)):
            place[:] = data[at : at + len(place)]
            at += len(place)

    def _emit(self) -> None:
        if self._emitted == 0:
            assert self._layout is not None
            self._emit_message(Begun(self._parts, self._layout))
        self._emitted += 1
        self._emit_message(Block(self._buffer, self._filled, self.good))


def part_of(item: WriteItem, load: Load) -> Part:
    """What goes before the file's bytes. Raises ValueError for what no header can say."""
    record = item.record
    member = Member(
        path=record.path,
        size=record.size,
        mtime_ns=record.mtime_ns,
        mode=record.mode,
        owner=record.owner,
        group=record.group,
        storage_class=record.storage_class,
        adler32=record.adler32,
        file_id=record.file_id,
        generation=load.generation,
        catalog_id=load.catalog_id.upper(),
        copy_number=item.copy_number,
        digests=record.digests,
    )
    line = list_line(record.file_id, record.path, record.size, record.adler32) if item.bundle else b""
    return Part(item, pax.build_member(member), line)

"""What is on a tape, put together: the order of labels, marks and data, and the objects that each part takes.

    object  0    1    2    3    4    5     6 ...         6+n   7+n  8+n  9+n  10+n
            VOL1 UVL1 HDR1 HDR2 UHL1 mark  data blocks   mark  EOF1 EOF2 UTL1 mark   HDR1 ...

A tape file is the group from HDR1 to the last mark, and its place is the object number of HDR1. Its data is one pax
archive cut into blocks of the volume's block size, the last one short. Pure: builds and checks; the mover reads and
writes. The labels are in `labels`, the archive in `pax`; docs/storage.md has every byte.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from isal import isal_zlib

from catalog.model import BLOCK_SIZE

VOLUME_LABEL_OBJECTS = 2
"""VOL1 UVL1: the first tape file begins here."""

HEADER_OBJECTS = 4
"""HDR1 HDR2 UHL1 and a mark stand before the data."""

TRAILER_OBJECTS = 5
"""A mark, EOF1 EOF2 UTL1 and a mark stand behind it."""

ADLER32_START = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The objects of one tape file: from HDR1 at `first_block` on, `data_blocks` blocks of data."""

    first_block: int
    data_blocks: int

    @property
    def data_start(self) -> int:
        """The object number of the first data block."""
        return self.first_block + HEADER_OBJECTS

    @property
    def end_block(self) -> int:
        """The object number at which the next tape file begins."""
        return self.data_start + self.data_blocks + TRAILER_OBJECTS


def adler32(data: bytes | bytearray | memoryview, running: int = ADLER32_START) -> int:
    """Go on with a checksum that begins with ADLER32_START. Releases the interpreter's lock on large buffers."""
    return int(isal_zlib.adler32(data, running))


def adler32_text(value: int) -> str:
    """As in the catalog: eight hexadecimal digits."""
    return f"{value:08x}"


def locate_member(first_block: int, byte_offset: int, block_size: int = BLOCK_SIZE) -> tuple[int, int]:
    """Where the byte `byte_offset` of a tape file's data lies: (object number, offset within that block)."""
    return first_block + HEADER_OBJECTS + byte_offset // block_size, byte_offset % block_size


def data_blocks(archive_bytes: int, block_size: int = BLOCK_SIZE) -> int:
    """How many blocks an archive of so many bytes takes; the last one is short."""
    return -(-archive_bytes // block_size)


def days_ns(day: datetime.date) -> int:
    """The beginning of a day (UTC) as a modification time in nanoseconds, for what has no time of its own."""
    return (day - datetime.date(1970, 1, 1)).days * 86_400 * 10**9

"""The SIMH magnetic-tape image format: one record or mark after the other, and how to find them again by a scan.

    record  length (4 bytes, little-endian), data, one zero byte if the length is odd, length again
    mark    four zero bytes
    end     four bytes 0xFF: "end of medium", which each flush writes behind the last record or mark

A length has 28 bits; the upper four are a class, of which only 0 (good data) is written or accepted here. Knows nothing
of files on disk: a scan gets a function that reads. See `blockindex` for the index and `cartridge` for the volume.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass

WORD = struct.Struct("<I")
MARK = bytes(4)
END_OF_MEDIUM = b"\xff\xff\xff\xff"
LENGTH_MAX = 0x0FFFFFFF

MARKS_IN_A_ROW_MAX = 1000
"""More marks than this without a record are zeros of a lost page, which holds at least 1,023 whole words of 4 bytes."""

# An entry says where an object begins: the offset in the image, and two flags in the bits that no offset needs.
IS_MARK = 1 << 63
IS_ODD = 1 << 62
OFFSET_MASK = IS_ODD - 1


def record_bytes(length: int) -> int:
    """The room that a record of `length` data bytes takes in the image."""
    return 8 + length + (length & 1)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found: an entry per object, and the offset behind the last one that counts.

    `closed` says that the end-of-medium word stood there: the image was flushed and nothing was lost behind it.
    """

    entries: array[int]
    end: int
    closed: bool


def scan(read: Callable[[int, int], bytes], start: int, size: int) -> Scan:
    """Find the objects from offset `start` on in an image of `size` bytes; `read(count, offset)` as os.pread.

    Accepts only whole records with equal length words on both sides, and marks followed by a record or by the
    end-of-medium word: zeros to the end are no marks, but the end of data. Stops without an error at the first thing
    that is not so; what follows there was never flushed, or was cut off.
    """
    entries = array("Q")
    marks = array("Q")  # met, and not yet known to be more than zeros
    end = offset = start
    word_bytes = read(4, offset)
    while len(word_bytes) == 4:
        (word,) = WORD.unpack(word_bytes)
        if word == 0:
            marks.append(offset | IS_MARK)
            if len(marks) > MARKS_IN_A_ROW_MAX:
                break
            offset += 4
            word_bytes = read(4, offset)
            continue
        if word_bytes == END_OF_MEDIUM:
            entries.extend(marks)
            return Scan(entries, offset, closed=True)
        tail = offset + 4 + word + (word & 1)
        if word > LENGTH_MAX or tail + 4 > size:
            break
        words = read(8, tail)
        if words[:4] != word_bytes:
            break
        entries.extend(marks)
        del marks[:]
        entries.append(offset | (IS_ODD if word & 1 else 0))
        end = offset = tail + 4
        word_bytes = words[4:8]
    return Scan(entries, end, closed=False)

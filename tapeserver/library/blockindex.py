"""The index beside a cartridge image: where each record and mark begins, up to the flushed length.

It only saves time: a scan of the image rebuilds it. But what it covers is known to have been flushed, and what lies
behind has to pass the scan's stricter look. The file, all numbers little-endian:

    0      head A (64 bytes, used when its sequence number is even)
    512    head B (64 bytes, used when it is odd)
    1024   entries of 8 bytes: offset in the image, bit 63 set for a mark, bit 62 for a record of odd length

    head   magic "CAPSTIDX", version u32 = 1, crc32 of the entries u32, sequence u64, entries u64, image bytes u64,
           zeros, crc32 of the head's first 60 bytes u32

A head counts only if both checksums are right; the newer valid one wins. Heads lie in two sectors, so a torn write
spoils at most the one that is being written.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path

from tapeserver.library import Trace

MAGIC = b"CAPSTIDX"
VERSION = 1
HEAD = struct.Struct("<8sIIQQQ20xI")
HEAD_OFFSETS = (0, 512)
ENTRIES_OFFSET = 1024
ENTRY_BYTES = 8


@dataclass(slots=True)
class _Head:
    sequence: int
    count: int
    image_bytes: int
    crc: int


class BlockIndex:
    """The index file of one cartridge, opened by the process that holds the cartridge."""

    def __init__(self, path: Path, trace: Trace | None = None) -> None:
        self._path = path
        self._trace = trace
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._head = _Head(sequence=0, count=0, image_bytes=0, crc=0)

    @property
    def count(self) -> int:
        """Objects that are known to have been flushed."""
        return self._head.count

    @property
    def image_bytes(self) -> int:
        """The flushed length of the image."""
        return self._head.image_bytes

    def load(self, image_size: int) -> array[int] | None:
        """The entries up to the flushed length, or None when the image has to be scanned from its beginning."""
        for head in sorted(self._heads(), key=lambda head: head.sequence, reverse=True):
            data = os.pread(self._descriptor, head.count * ENTRY_BYTES, ENTRIES_OFFSET)
            whole = len(data) == head.count * ENTRY_BYTES and zlib.crc32(data) == head.crc
            if whole and head.image_bytes <= image_size:
                self._head = head
                return _from_little_endian(data)
        return None

    def commit(self, entries: array[int], image_bytes: int) -> None:
        """Record that the image is flushed up to `image_bytes`, with these entries. Durable on return.

        `entries` must agree with what was committed before up to the shorter of both lengths. Raises OSError.
        """
        first, crc = self._head.count, self._head.crc
        if len(entries) < first:
            first, crc = len(entries), zlib.crc32(_to_little_endian(entries))
        added = _to_little_endian(entries[first:])
        if added:
            _write_all(self._descriptor, added, ENTRIES_OFFSET + first * ENTRY_BYTES)
        head = _Head(self._head.sequence + 1, len(entries), image_bytes, zlib.crc32(added, crc))
        body = HEAD.pack(MAGIC, VERSION, head.crc, head.sequence, head.count, head.image_bytes, 0)[:-4]
        packed = body + struct.pack("<I", zlib.crc32(body))
        _write_all(self._descriptor, packed, HEAD_OFFSETS[head.sequence % 2])
        os.fsync(self._descriptor)
        self._head = head
        if self._trace:
            self._trace("fsync_index", self._path.name)

    def close(self) -> None:
        os.close(self._descriptor)

    def _heads(self) -> list[_Head]:
        heads = []
        for offset in HEAD_OFFSETS:
            data = os.pread(self._descriptor, HEAD.size, offset)
            if len(data) == HEAD.size and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"):
                magic, version, crc, sequence, count, image_bytes, _ = HEAD.unpack(data)
                if magic == MAGIC and version == VERSION:
                    heads.append(_Head(sequence, count, image_bytes, crc))
        return heads


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _to_little_endian(entries: array[int]) -> bytes:
    if sys.byteorder == "big":
        entries = entries[:]
        entries.byteswap()
    return entries.tobytes()


def _from_little_endian(data: bytes) -> array[int]:
    entries = array("Q")
    entries.frombytes(data)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries

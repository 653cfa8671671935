"""The end of an image that is still in memory: bounded, byte for byte as it will stand in the image.

Appending copies into chunks that are used again, so that steady writing allocates nothing. Knows nothing of records.
"""

from __future__ import annotations

import os
from collections import deque

CHUNK_BYTES = 4 * 1024 * 1024
CHUNK_BYTES_MIN = 64 * 1024
IOV_MAX = 512


class TailBuffer:
    """A first-in first-out byte buffer of at most `bytes_max`, plus one chunk."""

    def __init__(self, bytes_max: int) -> None:
        self._chunk_bytes = max(CHUNK_BYTES_MIN, min(CHUNK_BYTES, bytes_max))
        self._bytes_max = max(bytes_max, self._chunk_bytes)
        self._full: deque[bytearray] = deque()
        self._filling: bytearray | None = None
        self._filled = 0
        self._free: list[bytearray] = []

    @property
    def length(self) -> int:
        """Bytes in the buffer."""
        return len(self._full) * self._chunk_bytes + self._filled

    @property
    def over_bound(self) -> bool:
        """Whether the oldest chunk has to go to the image before more is appended."""
        return len(self._full) * self._chunk_bytes >= self._bytes_max

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` behind what is there."""
        length, start = len(data), 0
        while start < length:
            if self._filling is None:
                self._filling = self._free.pop() if self._free else bytearray(self._chunk_bytes)
            count = min(self._chunk_bytes - self._filled, length - start)
            if count == length:
                self._filling[self._filled : self._filled + count] = data
            else:
                self._filling[self._filled : self._filled + count] = memoryview(data)[start : start + count]
            self._filled += count
            start += count
            if self._filled == self._chunk_bytes:
                self._full.append(self._filling)
                self._filling, self._filled = None, 0

    def write_oldest(self, descriptor: int, offset: int) -> int:
        """Write the oldest full chunk to the file and drop it; returns its length. Raises OSError."""
        chunk = self._full.popleft()
        _write_vector(descriptor, [memoryview(chunk)], offset)
        self._free.append(chunk)
        return self._chunk_bytes

    def write_all(self, descriptor: int, offset: int, end: bytes) -> int:
        """Write everything, then `end`, to the file; returns the length without `end`. Raises OSError."""
        length = self.length
        vector = [memoryview(chunk) for chunk in self._full]
        if self._filling is not None:
            vector.append(memoryview(self._filling)[: self._filled])
        _write_vector(descriptor, [*vector, memoryview(end)], offset)
        self._free.extend(self._full)
        self._full.clear()
        self._filled = 0
        return length

    def write_some(self, descriptor: int, offset: int, count: int) -> None:
        """Write the first `count` bytes to the file, and drop everything. Raises OSError."""
        vector = [memoryview(chunk) for chunk in self._full]
        if self._filling is not None:
            vector.append(memoryview(self._filling)[: self._filled])
        kept: list[memoryview] = []
        for view in vector:
            kept.append(view[:count])
            count -= len(kept[-1])
        _write_vector(descriptor, [view for view in kept if view], offset)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._free.extend(self._full)
        self._full.clear()
        self._filled = 0


def _write_vector(descriptor: int, vector: list[memoryview], offset: int) -> None:
    while vector:
        written = os.pwritev(descriptor, vector[:IOV_MAX], offset)
        offset += written
        while vector and written >= len(vector[0]):
            written -= len(vector[0])
            del vector[0]
        if vector:
            vector[0] = vector[0][written:]

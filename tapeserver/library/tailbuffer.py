"""The end of an image that is still in memory: bounded, byte for byte as it will stand in the image.

Appending copies into chunks that are used again, so that steady writing allocates nothing. A chunk lies in memory as it
lies in the image, both at whole chunks: it can go past the page cache (`imagewriter`). Knows nothing of records.
"""

from __future__ import annotations

import mmap
from collections import deque

from tapeserver.library.imagewriter import ImageWriter

CHUNK_BYTES = 4 * 1024 * 1024
CHUNK_BYTES_MIN = 64 * 1024


class TailBuffer:
    """A first-in first-out byte buffer of at most `bytes_max`, plus one chunk. Its first byte belongs at `begin`."""

    def __init__(self, bytes_max: int) -> None:
        self._chunk_bytes = max(CHUNK_BYTES_MIN, min(CHUNK_BYTES, bytes_max & -CHUNK_BYTES_MIN))
        self._bytes_max = max(bytes_max, self._chunk_bytes)
        self._chunks: deque[memoryview] = deque()
        self._free: list[memoryview] = []
        self.begin = self._end = 0

    @property
    def length(self) -> int:
        """Bytes in the buffer."""
        return self._end - self.begin

    @property
    def over_bound(self) -> bool:
        """Whether the oldest chunk has to go to the image before more is appended."""
        return self._end - self.begin >= self._bytes_max

    def restart(self, begin: int) -> None:
        """Forget everything; what is appended next belongs at offset `begin` of the image."""
        self._free.extend(self._chunks)
        self._chunks.clear()
        self.begin = self._end = begin

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` behind what is there."""
        length, start = len(data), 0
        while start < length:
            at = self._end % self._chunk_bytes
            if not at or not self._chunks:
                self._chunks.append(self._free.pop() if self._free else memoryview(mmap.mmap(-1, self._chunk_bytes)))
            count = min(self._chunk_bytes - at, length - start)
            if count == length:
                self._chunks[-1][at : at + count] = data
            else:
                self._chunks[-1][at : at + count] = memoryview(data)[start : start + count]
            self._end += count
            start += count

    def take_oldest(self) -> tuple[memoryview, int]:
        """The oldest chunk, which is full, and where it belongs. To be written, and given back then."""
        chunk, begin = self._chunks.popleft(), self.begin
        self.begin += self._chunk_bytes - begin % self._chunk_bytes
        return chunk[begin % self._chunk_bytes :], begin

    def give_back(self, chunk: memoryview) -> None:
        """A chunk that was taken: its memory is used again, unless it was not a whole one."""
        if len(chunk) == self._chunk_bytes:
            self._free.append(chunk)

    def write_all(self, image: ImageWriter, behind: bytes) -> None:
        """Write everything, then `behind`, to the image, and drop it. Raises OSError."""
        image.write([*self._pieces(), memoryview(behind)], self.begin)
        self.restart(self._end)

    def write_some(self, image: ImageWriter, count: int) -> None:
        """Write the first `count` bytes to the image, and drop everything. Raises OSError."""
        kept: list[memoryview] = []
        for piece in self._pieces():
            kept.append(piece[:count])
            count -= len(kept[-1])
        image.write(kept, self.begin)
        self.restart(self._end)

    def _pieces(self) -> list[memoryview]:
        pieces: list[memoryview] = []
        offset = self.begin
        for chunk in self._chunks:
            at = offset % self._chunk_bytes
            pieces.append(chunk[at : at + min(self._chunk_bytes - at, self._end - offset)])
            offset += len(pieces[-1])
        return pieces

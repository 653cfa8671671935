"""For tests that play a cache server or a mover: the frames of a stream, one after the other."""

from __future__ import annotations

import asyncio
from collections import deque

from client.bulkframes import BadFrames, Frame, FrameDecoder

_RECEIVED_BYTES_MAX = 1 << 20


class FrameReader:
    """Frames from a stream."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._decoder = FrameDecoder()
        self._ready: deque[Frame] = deque()

    async def next(self) -> Frame | None:
        """The next frame, None at the end. Raises BadFrames (also when cut off)."""
        while not self._ready:
            received = await self._stream.read(_RECEIVED_BYTES_MAX)
            if not received:
                if not self._decoder.between_frames:
                    raise BadFrames(why="it ends within a frame")
                return None
            self._ready.extend(self._decoder.feed(received))
        return self._ready.popleft()

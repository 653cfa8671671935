"""A stream of files to one cache server: frames go out, acknowledgements come back, buffers are bounded.

The thread of the drive fills buffers and hands them in; a thread sends them, another one receives what the cache server
says of each file and passes it on. When the stream breaks, every file that was not acknowledged is reported as failed.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from catalog.errors import CapstanError
from client import bulkframes
from client.bulkframes import FrameDecoder, Kind
from tapeserver.mover.bulkhttp import BulkRequest, CacheStreamBroken

BUFFER_BYTES = 1024 * 1024
BUFFERS_MAX = 32
PIECES_MAX = 1024
STALL_SECONDS_MAX = 120.0
"""A cache server that neither takes bytes nor answers for so long is given up."""

JOIN_SECONDS_MAX = 10.0

OnResult = Callable[[int, CapstanError | None], None]
"""(reservation, None for an acknowledged file or what went wrong), called from a thread of the stream before the file
stops counting as unanswered. Rarely twice: when the stream breaks while an answer is passed on."""


@dataclass(slots=True)
class _Piece:
    """A frame to send: its header, the payload behind it, and the buffer that is free again when it was sent."""

    header: bytes
    payload: memoryview | None = None
    buffer: bytearray | None = None


class CacheSender:
    """One bulk write. The methods are for the one thread that fills it; they raise CacheStreamBroken."""

    def __init__(
        self,
        url: str,
        on_result: OnResult,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        buffers_max: int = BUFFERS_MAX,
        stall_seconds_max: float = STALL_SECONDS_MAX,
    ) -> None:
        self._request = BulkRequest(url)
        self._on_result = on_result
        self._stall_seconds_max = stall_seconds_max
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        self._buffers_to_make, self._buffer_bytes = buffers_max, buffer_bytes
        self._pieces: queue.Queue[_Piece | None] = queue.Queue(PIECES_MAX)
        self._lock = threading.Lock()
        self._waiting: dict[int, int | None] = {}  # reservation -> the checksum that was sent, None while it is sent
        self._broken: CapstanError | None = None
        self._active_at = time.monotonic()
        self._threads = [
            threading.Thread(target=self._send, name=f"send-{self._request.place}", daemon=True),
            threading.Thread(target=self._receive, name=f"receive-{self._request.place}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def broken(self) -> bool:
        return self._broken is not None

    @property
    def unanswered(self) -> int:
        """Files that were begun and of which nothing was heard yet."""
        return len(self._waiting)

    def buffer(self) -> bytearray:
        """An empty buffer to fill; waits until one is free."""
        if self._buffers_to_make:
            self._buffers_to_make -= 1
            return bytearray(self._buffer_bytes)
        while True:
            try:
                return self._buffers.get(timeout=1.0)
            except queue.Empty:
                self.check()

    def give_back(self, buffer: bytearray) -> None:
        """A buffer that is not sent after all."""
        self._buffers.put(buffer)

    def begin(self, reservation: int, size: int) -> None:
        self.check()
        with self._lock:
            self._waiting[reservation] = None
        self._put(_Piece(bulkframes.begin(reservation, size)))

    def data(self, reservation: int, payload: memoryview, buffer: bytearray) -> None:
        """Send `payload`, which lies in `buffer`; the buffer goes back by itself."""
        self._put(_Piece(bulkframes.data_header(reservation, len(payload)), payload, buffer))

    def end(self, reservation: int, adler32: int) -> None:
        with self._lock:
            if reservation in self._waiting:
                self._waiting[reservation] = adler32
        self._put(_Piece(bulkframes.end(reservation, adler32)))

    def abort(self, reservation: int, why: str) -> None:
        """Give a file up that was begun: nothing is reported of it any more."""
        with self._lock:
            self._waiting.pop(reservation, None)
        self._put(_Piece(bulkframes.abort(reservation, why)))

    def check(self) -> None:
        """Raise CacheStreamBroken if the stream is broken or has stalled."""
        if self._broken is None and self._waiting and self._idle_seconds() > self._stall_seconds_max:
            self._fail(CacheStreamBroken(place=self._request.place, why=f"no answer for {self._stall_seconds_max} s"))
        if self._broken is not None:
            raise self._broken

    def close(self) -> None:
        """Send the rest, wait for the answers, and end; what is not answered then is reported as failed."""
        try:
            self._put(_Piece(bulkframes.bye()))
            self._put(None)
            while self._waiting:
                self.check()
                time.sleep(0.005)
        except CapstanError:
            pass
        else:
            self._threads[1].join(JOIN_SECONDS_MAX)
        self._fail(CacheStreamBroken(place=self._request.place, why="closed"))
        for thread in self._threads:
            thread.join(JOIN_SECONDS_MAX)
        if not any(thread.is_alive() for thread in self._threads):
            self._request.close()

    def _idle_seconds(self) -> float:
        return time.monotonic() - self._active_at

    def _put(self, piece: _Piece | None) -> None:
        while True:
            self.check()
            try:
                return self._pieces.put(piece, timeout=1.0)
            except queue.Full:
                continue

    def _send(self) -> None:
        try:
            while self._broken is None:
                try:
                    batch = [self._pieces.get(timeout=1.0)]
                except queue.Empty:
                    continue
                while batch[-1] is not None and len(batch) < 64 and not self._pieces.empty():
                    batch.append(self._pieces.get())
                pieces = [piece for piece in batch if piece is not None]
                if pieces:
                    self._send_pieces(pieces)
                if batch[-1] is None:
                    return self._request.end_body()
        except OSError as exc:
            self._fail(CacheStreamBroken(place=self._request.place, why=str(exc)))

    def _send_pieces(self, pieces: list[_Piece]) -> None:
        parts: list[bytes | bytearray | memoryview] = []
        for piece in pieces:
            parts.append(piece.header)
            if piece.payload is not None:
                parts.append(piece.payload)
        self._request.send(parts)
        self._active_at = time.monotonic()
        for piece in pieces:
            if piece.buffer is not None:
                self._buffers.put(piece.buffer)

    def _receive(self) -> None:
        try:
            response = self._request.receive_head()
            decoder = FrameDecoder()
            while received := response.read1(65536):
                self._active_at = time.monotonic()
                for frame in decoder.feed(received):
                    self._heard(frame)
            raise CacheStreamBroken(place=self._request.place, why="it ended the stream")
        except CapstanError as exc:
            self._fail(exc)
        except (OSError, ValueError, http.client.HTTPException) as exc:
            self._fail(CacheStreamBroken(place=self._request.place, why=repr(exc)))

    def _heard(self, frame: bulkframes.Frame) -> None:
        with self._lock:
            if frame.id not in self._waiting:
                return
            sent = self._waiting[frame.id]
        if frame.kind is Kind.ACK:
            agreed = frame.adler32 == sent
            why = f"it acknowledged another checksum for reservation {frame.id}"
            self._on_result(frame.id, None if agreed else CacheStreamBroken(place=self._request.place, why=why))
        elif frame.kind is Kind.ERROR:
            self._on_result(frame.id, frame.error)
        else:
            raise CacheStreamBroken(place=self._request.place, why=f"{frame.kind.name} came out of turn")
        with self._lock:
            self._waiting.pop(frame.id, None)

    def _fail(self, error: CapstanError) -> None:
        with self._lock:
            if self._broken is not None:
                return
            self._broken = error
            waiting = list(self._waiting)
        self._request.shut_down()
        with contextlib.suppress(queue.Full):
            self._pieces.put_nowait(None)  # wakes a sender that waits; one that does not sees `_broken`
        for reservation in waiting:
            self._on_result(reservation, error)
        with self._lock:
            self._waiting.clear()

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from catalog.errors import CapstanError
from client import bulkframes
from client.bulkframes import FrameDecoder, Kind
from client.takeover import IOV_MAX
from tapeserver.mover.bulkhttp import BulkRequest, CacheStreamBroken

BUFFER_BYTES = 1024 * 1024
BUFFERS_MAX = 32
PIECES_MAX = 1024
PIECES_TOGETHER_MAX = 64
#: small files are sent when there is so much of them, or when something else comes
TOGETHER_BYTES = 512 * 1024
STALL_SECONDS_MAX = 120.0
"""A cache server that neither takes bytes nor answers for so long is given up."""

JOIN_SECONDS_MAX = 10.0

OnResults = Callable[[Sequence[tuple[int, CapstanError | None]]], None]
"""(reservation, None for an acknowledged file or what went wrong) of some files, called from a thread of the stream
before they stop counting as unanswered. Rarely twice: when the stream breaks while an answer is passed on."""


@dataclass(slots=True, eq=False)
class Buffer:
    """Bytes to fill, free again when its last user has let go of it: who filled it, and each piece to be sent."""

    bytes: bytearray
    users: int = 1


@dataclass(slots=True)
class _Piece:
    """Bytes to send together, and the buffers that they lie in, each as often as it is let go of then."""

    parts: list[bytes | memoryview] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    length: int = 0


class CacheSender:
    """One bulk write. The methods are for the one thread that fills it; they raise CacheStreamBroken."""

    def __init__(
        self,
        url: str,
        on_results: OnResults,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        buffers_max: int = BUFFERS_MAX,
        stall_seconds_max: float = STALL_SECONDS_MAX,
    ) -> None:
        self._request = BulkRequest(url)
        self._on_results = on_results
        self._stall_seconds_max = stall_seconds_max
        self._buffers: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        self._buffers_to_make, self._buffer_bytes = buffers_max, buffer_bytes
        self._pieces: queue.Queue[_Piece | None] = queue.Queue(PIECES_MAX)
        #: small files that are sent together
        self._gathered = _Piece()
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

    def buffer(self) -> Buffer:
        """An empty buffer to fill; waits until one is free. The caller is its first user."""
        if self._buffers_to_make:
            self._buffers_to_make -= 1
            return Buffer(bytearray(self._buffer_bytes))
        self.flush()
        while True:
            try:
                found = self._buffers.get(timeout=1.0)
            except queue.Empty:
                self.check()
            else:
                found.users = 1
                return found

    def let_go(self, buffer: Buffer) -> None:
        """One user less; without any it is free again."""
        with self._lock:
            buffer.users -= 1
            free = not buffer.users
        if free:
            self._buffers.put(buffer)

    def file(self, reservation: int, adler32: int, payload: memoryview, buffer: Buffer | None) -> None:
        """All of a file, whose bytes are `payload` and lie in `buffer`. It is sent with others, at the next `flush`."""
        self._begin(reservation, adler32)
        head = bulkframes.begin(reservation, len(payload))
        gathered = self._gathered
        if buffer is not None:
            with self._lock:
                buffer.users += 1
            gathered.buffers.append(buffer)
            gathered.parts.append(head + bulkframes.data_header(reservation, len(payload)))
            gathered.parts.append(payload)
        else:
            gathered.parts.append(head)
        gathered.parts.append(bulkframes.end(reservation, adler32))
        gathered.length += len(payload)
        if gathered.length >= TOGETHER_BYTES or len(gathered.parts) >= IOV_MAX - 3:
            self.flush()

    def begin(self, reservation: int, size: int) -> None:
        self._begin(reservation, None)
        self._put(_Piece([bulkframes.begin(reservation, size)]))

    def data(self, reservation: int, payload: memoryview, buffer: Buffer | None) -> None:
        """Send `payload`, which lies in `buffer`."""
        header = bulkframes.data_header(reservation, len(payload))
        piece = _Piece([header, payload], [] if buffer is None else [buffer], len(payload))
        if buffer is not None:
            with self._lock:
                buffer.users += 1
        self._put(piece)

    def end(self, reservation: int, adler32: int) -> None:
        with self._lock:
            if reservation in self._waiting:
                self._waiting[reservation] = adler32
        self._put(_Piece([bulkframes.end(reservation, adler32)]))

    def abort(self, reservation: int, why: str) -> None:
        """Give a file up that was begun: nothing is reported of it any more."""
        with self._lock:
            self._waiting.pop(reservation, None)
        self._put(_Piece([bulkframes.abort(reservation, why)]))

    def flush(self) -> None:
        """Let go what was gathered. Raises CacheStreamBroken, also when there is nothing."""
        gathered = self._gathered
        if gathered.parts:
            self._gathered = _Piece()
            self._enqueue(gathered)
        else:
            self.check()

    def check(self) -> None:
        """Raise CacheStreamBroken if the stream is broken or has stalled."""
        if self._broken is None and self._waiting and self._idle_seconds() > self._stall_seconds_max:
            self._fail(CacheStreamBroken(place=self._request.place, why=f"no answer for {self._stall_seconds_max} s"))
        if self._broken is not None:
            raise self._broken

    def close(self) -> None:
        """Send the rest, wait for the answers, and end; what is not answered then is reported as failed."""
        try:
            self._put(_Piece([bulkframes.bye()]))
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

    def _begin(self, reservation: int, adler32: int | None) -> None:
        self.check()
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._waiting[reservation] = adler32

    def _put(self, piece: _Piece | None) -> None:
        if self._gathered.parts:
            self.flush()
        self._enqueue(piece)

    def _enqueue(self, piece: _Piece | None) -> None:
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
                while batch[-1] is not None and len(batch) < PIECES_TOGETHER_MAX and not self._pieces.empty():
                    batch.append(self._pieces.get())
                pieces = [piece for piece in batch if piece is not None]
                if pieces:
                    self._send_pieces(pieces)
                if batch[-1] is None:
                    return self._request.end_sending()
        except OSError as exc:
            self._fail(CacheStreamBroken(place=self._request.place, why=str(exc)))

    def _send_pieces(self, pieces: list[_Piece]) -> None:
        self._request.send([part for piece in pieces for part in piece.parts])
        self._active_at = time.monotonic()
        for piece in pieces:
            for buffer in piece.buffers:
                self.let_go(buffer)

    def _receive(self) -> None:
        try:
            response = self._request.received()
            decoder = FrameDecoder()
            while received := response.read1(65536):
                self._active_at = time.monotonic()
                self._heard(list(decoder.feed(received)))
            raise CacheStreamBroken(place=self._request.place, why="it ended the stream")
        except CapstanError as exc:
            self._fail(exc)
        except (OSError, ValueError, http.client.HTTPException) as exc:
            self._fail(CacheStreamBroken(place=self._request.place, why=repr(exc)))

    def _heard(self, frames: Sequence[bulkframes.Frame]) -> None:
        with self._lock:
            results = [(frame.id, self._result(frame)) for frame in frames if frame.id in self._waiting]
        if results:
            self._on_results(results)
        with self._lock:
            for reservation, _ in results:
                self._waiting.pop(reservation, None)

    def _result(self, frame: bulkframes.Frame) -> CapstanError | None:
        if frame.kind is Kind.ACK:
            if frame.adler32 == self._waiting[frame.id]:
                return None
            why = f"it acknowledged another checksum for reservation {frame.id}"
            return CacheStreamBroken(place=self._request.place, why=why)
        if frame.kind is Kind.ERROR:
            return frame.error
        return CacheStreamBroken(place=self._request.place, why=f"{frame.kind.name} came out of turn")

    def _fail(self, error: CapstanError) -> None:
        with self._lock:
            if self._broken is not None:
                return
            self._broken = error
            waiting = list(self._waiting)
        self._request.shut_down()
        with contextlib.suppress(queue.Full):
            self._pieces.put_nowait(None)  # wakes a sender that waits; one that does not sees `_broken`
        if waiting:
            self._on_results([(reservation, error) for reservation in waiting])
        with self._lock:
            self._waiting.clear()

"""The streams of movers: recalled files in, files to archive out, many over one connection, answered while they pass.

One connection a mount and direction, taken over from HTTP (client/takeover.py) and worked by its own threads, so that
bytes pass neither a parser nor the event loop. What becomes of arriving files is in `arrivals`.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from aiohttp import web

from cacheserver.arrivals import Arrivals
from cacheserver.checksums import adler32
from cacheserver.service import Service
from cacheserver.threads import in_thread
from catalog.errors import BadRequest, CapstanError, NotOnline, Unavailable
from catalog.signing import BulkClaims
from client import bulkframes
from client.bulkframes import BadFrames, FrameDecoder, Kind
from client.takeover import Channel, nothing_more, taken_over

log = structlog.get_logger(__name__)
CHUNK_BYTES = 1024 * 1024
#: received and not yet written, for each stream
BUFFERS = 8
#: small files that are sent together
TOGETHER_BYTES = 1024 * 1024


class BulkStreams:
    """The handlers of `/bulk/write` and `/bulk/read`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(service.config.bulk_streams_max, thread_name_prefix="bulk")
        self._open: set[Channel] = set()

    def add_routes(self, app: web.Application) -> None:
        app.on_shutdown.append(self._end)
        app.router.add_post("/bulk/write", self.write)
        app.router.add_post("/bulk/read", self.read)

    async def write(self, request: web.Request) -> web.StreamResponse:
        """Mover -> disk. Answers ACK (with the checksum of what is on the disk) or ERROR for each file, in order."""
        claims = await self._claims(request)
        with self._service.bulk_stream(claims.epoch):
            async with taken_over(request, idle_seconds_max=self._idle_seconds_max) as channel:
                arrivals = Arrivals(self._service, claims.epoch, asyncio.get_running_loop())
                self._service.forgetters.add(arrivals.forget)
                try:
                    await self._to_its_end(channel, lambda: _receive_files(channel, arrivals))
                finally:
                    self._service.forgetters.discard(arrivals.forget)
        return nothing_more()

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Disk -> mover: DATA_BEGIN, DATA…, DATA_END with the checksum of what was read, or ERROR, for each WANT."""
        claims = await self._claims(request)
        with self._service.bulk_stream(claims.epoch):
            async with taken_over(request, idle_seconds_max=self._idle_seconds_max) as channel:
                departures = Departures(self._service, channel)
                await self._to_its_end(channel, departures.run)
        return nothing_more()

    @property
    def _idle_seconds_max(self) -> float:
        return self._service.config.mover_idle_seconds_max

    async def _claims(self, request: web.Request) -> BulkClaims:
        claims = await self._service.claims(request.query.get("sig", ""), BulkClaims)
        if claims.cache_server != self._service.name:
            raise BadRequest(why=f"the URL is for cache server {claims.cache_server}, this is {self._service.name}")
        return claims

    async def _to_its_end(self, channel: Channel, work: Callable[[], None]) -> None:
        """Run the stream's thread. Its end is waited for in any case: it works on a descriptor that is closed next."""
        self._open.add(channel)
        try:
            await in_thread(self._threads, work)
        finally:
            self._open.discard(channel)

    async def _end(self, _: web.Application) -> None:
        """The server ends: a stream may be waiting for its mover for hours."""
        for channel in self._open:
            channel.shut_down()


# ------------------------------------------------------------------ mover -> disk


def _receive_files(channel: Channel, arrivals: Arrivals) -> None:
    """Until BYE or the end. Raises BadFrames, TimedOut, OSError."""
    receiver = _Receiver(channel)
    decoder = FrameDecoder(split_data=True)
    try:
        while (received := receiver.get()) is not None:
            buffer, length = received
            frames = list(decoder.feed(memoryview(buffer)[:length]))
            arrivals.learn(frames)
            answer = arrivals.take(frames)
            # Only now: the frames are views of it.
            receiver.give_back(buffer)
            if answer:
                channel.send([answer])
            if arrivals.ended:
                channel.send([bulkframes.bye()])
                return
        if not decoder.between_frames:
            raise BadFrames(why="it ends within a frame")
    finally:
        arrivals.close()
        receiver.close()


class _Receiver:
    """Receives while the last bytes are being written: a thread that fills a bounded number of buffers."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._empty: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[bytearray, int] | BaseException] = queue.SimpleQueue()
        self._made = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="bulk-receive", daemon=True)
        self._thread.start()

    def get(self) -> tuple[bytearray, int] | None:
        """The next bytes, None at the end. Raises TimedOut, OSError."""
        found = self._full.get()
        if isinstance(found, BaseException):
            raise found
        return found if found[1] else None

    def give_back(self, buffer: bytearray) -> None:
        self._empty.put(buffer)

    def close(self) -> None:
        """The connection is not received from any more."""
        self._closed = True
        self._empty.put(None)
        if self._thread.is_alive():
            self._channel.stop_receiving()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closed:
                buffer = self._buffer()
                if buffer is None:
                    return
                length = self._channel.receive_into(buffer)
                self._full.put((buffer, length))
                if not length:
                    return
        except (CapstanError, OSError) as exc:
            self._full.put(exc)

    def _buffer(self) -> bytearray | None:
        if self._made < BUFFERS and self._empty.empty():
            self._made += 1
            return bytearray(CHUNK_BYTES)
        return self._empty.get()


# ------------------------------------------------------------------ disk -> mover


class Departures:
    """What one mover wants, in the order in which it asks. `run` in a thread."""

    def __init__(self, service: Service, channel: Channel) -> None:
        self._service, self._channel = service, channel
        self._decoder = FrameDecoder()
        self._received = bytearray(64 * 1024)
        self._buffer = bytearray(CHUNK_BYTES)
        self._wanted: deque[int] = deque()
        #: frames of small files that go together
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._over = False

    def run(self) -> None:
        """Until BYE or the end. Raises BadFrames, TimedOut, OSError."""
        while self._more_wanted():
            while self._wanted:
                self._send_file(self._wanted.popleft())
                if self._channel.readable():
                    self._receive()
        self._channel.send([bulkframes.bye()])

    def _more_wanted(self) -> bool:
        self._flush()
        while not self._wanted and not self._over:
            self._receive()
        return bool(self._wanted)

    def _receive(self) -> None:
        if self._over or len(self._wanted) >= self._service.config.wants_max:
            return
        length = self._channel.receive_into(self._received)
        if not length:
            if not self._decoder.between_frames:
                raise BadFrames(why="it ends within a frame")
            self._over = True
        for frame in self._decoder.feed(memoryview(self._received)[:length]):
            if frame.kind is Kind.WANT:
                self._wanted.append(frame.id)
            elif frame.kind is Kind.BYE:
                self._over = True
            else:
                raise BadFrames(why=f"a {frame.kind.name} frame has no business here")

    def _send_file(self, replica_id: int) -> None:
        try:
            descriptor = self._service.store.open(replica_id)
        except OSError as exc:
            self._add(bulkframes.error(replica_id, _unreadable(replica_id, exc)))
            return
        try:
            size = os.fstat(descriptor).st_size
            self._add(bulkframes.begin(replica_id, size))
            self._send_bytes(replica_id, descriptor, size)
        finally:
            os.close(descriptor)

    def _send_bytes(self, replica_id: int, descriptor: int, size: int) -> None:
        offset, value = 0, 1
        view = memoryview(self._buffer)
        while offset < size:
            try:
                length = os.preadv(descriptor, [view[: min(size - offset, CHUNK_BYTES)]], offset)
                if not length:
                    raise OSError("the file became shorter")
            except OSError as exc:
                self._add(bulkframes.error(replica_id, _unreadable(replica_id, exc)))
                return
            data = view[:length]
            value, offset = adler32(data, value), offset + length
            self._service.metrics.sent_bytes.labels("archive").inc(length)
            if size <= TOGETHER_BYTES // 4:
                self._add(bulkframes.data_header(replica_id, length) + data)
            else:
                self._flush(bulkframes.data_header(replica_id, length), data)
        self._add(bulkframes.end(replica_id, value))

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self._parts_bytes += len(part)
        if self._parts_bytes >= TOGETHER_BYTES:
            self._flush()

    def _flush(self, *more: bytes | memoryview) -> None:
        pieces = [*self._parts, *more]
        self._parts, self._parts_bytes = [], 0
        if pieces:
            self._channel.send(pieces)


def _unreadable(replica_id: int, exc: OSError) -> CapstanError:
    if isinstance(exc, FileNotFoundError):
        return NotOnline(path=f"replica {replica_id}", why="the disk does not have it")
    return Unavailable(what=f"replica {replica_id}", why=os.strerror(exc.errno) if exc.errno else str(exc))

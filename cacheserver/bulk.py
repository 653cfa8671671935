"""The streams of movers: recalled files in, files to archive out, many in one request, answered while they arrive.

One request a mount and direction. Bytes are handled in batches, whatever arrived together, one visit to a thread for
each batch; the catalog is asked when a mount has new reservations, never for a file. A recalled file gets no fsync
(its copy is on tape, and an unclean stop makes us checksum it before use): temporary name, checksum, rename, ACK.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Sequence

import structlog
from aiohttp import StreamReader, web

from cacheserver.checksums import adler32
from cacheserver.service import Service
from cacheserver.store import Incoming
from catalog import replicas
from catalog.errors import BadRequest, CapstanError, NotOnline, ShortBody, TimedOut, Unavailable, WrongState
from catalog.signing import BulkClaims
from client import bulkframes
from client.bulkframes import BadFrames, Frame, FrameReader, Kind

log = structlog.get_logger(__name__)
CHUNK_BYTES = 1024 * 1024
#: small files that are read in one visit to a thread
READ_TOGETHER_FILES = 128
READ_TOGETHER_BYTES = 4 * 1024 * 1024


class BulkStreams:
    """The handlers of `/bulk/write` and `/bulk/read`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/bulk/write", self.write)
        app.router.add_post("/bulk/read", self.read)

    async def write(self, request: web.Request) -> web.StreamResponse:
        """Mover -> disk. Answers ACK (with the checksum of what is on the disk) or ERROR for each file, in order."""
        claims = await self._claims(request)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        with self._service.bulk_stream(claims.epoch):
            await response.prepare(request)
            arrivals = Arrivals(self._service, claims.epoch)
            self._service.forgetters.add(arrivals.forget)
            try:
                async for frames in _batches(request.content, self._service.config.mover_idle_seconds_max):
                    await arrivals.learn(frames)
                    answer = await self._service.on_disk(arrivals.take, frames)
                    if answer:
                        await response.write(answer)
                    if arrivals.ended:
                        break
            finally:
                self._service.forgetters.discard(arrivals.forget)
                await self._service.on_disk(arrivals.close)
            await _bye(response)
        return response

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Disk -> mover: DATA_BEGIN, DATA…, DATA_END with the checksum of what was read, or ERROR, for each WANT."""
        claims = await self._claims(request)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        with self._service.bulk_stream(claims.epoch):
            await response.prepare(request)
            wants: asyncio.Queue[int | None] = asyncio.Queue(self._service.config.wants_max)
            reader = asyncio.create_task(self._read_wants(request.content, wants), name="bulk-wants")
            try:
                while (wanted := await _some(wants)) is not None:
                    await self._send(response, wanted)
                await reader
            finally:
                reader.cancel()
                await asyncio.wait([reader])
            await _bye(response)
        return response

    async def _claims(self, request: web.Request) -> BulkClaims:
        claims = await self._service.claims(request.query.get("sig", ""), BulkClaims)
        if claims.cache_server != self._service.name:
            raise BadRequest(why=f"the URL is for cache server {claims.cache_server}, this is {self._service.name}")
        return claims

    async def _read_wants(self, body: StreamReader, wants: asyncio.Queue[int | None]) -> None:
        try:
            async for frames in _batches(body, self._service.config.mover_idle_seconds_max):
                for frame in frames:
                    if frame.kind is Kind.BYE:
                        break
                    if frame.kind is not Kind.WANT:
                        raise BadFrames(why=f"a {frame.kind.name} frame has no business here")
                    await wants.put(frame.id)
        except asyncio.CancelledError:
            # Nobody takes from the queue any more; a word of farewell could wait for ever.
            raise
        except BaseException:
            await wants.put(None)
            raise
        await wants.put(None)

    async def _send(self, response: web.StreamResponse, wanted: Sequence[int]) -> None:
        """Small files together, large ones in chunks of which the next is read while the last one is sent."""
        start = 0
        while start < len(wanted):
            taken, answer, large = await self._service.on_disk(self._read_together, wanted[start:])
            start += taken
            if answer:
                self._service.metrics.sent_bytes.labels("archive").inc(len(answer))
                await response.write(answer)
            if large is not None:
                start += 1
                await self._send_large(response, wanted[start - 1], large)

    def _read_together(self, wanted: Sequence[int]) -> tuple[int, bytes, int | None]:
        """(how many are answered, the frames, the open descriptor of a large file that comes next)."""
        parts: list[bytes] = []
        count = total = 0
        for replica_id in wanted:
            if total >= READ_TOGETHER_BYTES:
                break
            try:
                descriptor = self._service.store.open(replica_id)
            except OSError as exc:
                parts.append(bulkframes.error(replica_id, self._unreadable(replica_id, exc)))
                count += 1
                continue
            if os.fstat(descriptor).st_size > CHUNK_BYTES:
                return count, b"".join(parts), descriptor
            try:
                data = os.pread(descriptor, CHUNK_BYTES, 0)
            except OSError as exc:
                parts.append(bulkframes.error(replica_id, self._unreadable(replica_id, exc)))
            else:
                parts.append(bulkframes.begin(replica_id, len(data)))
                if data:
                    parts += (bulkframes.data_header(replica_id, len(data)), data)
                parts.append(bulkframes.end(replica_id, adler32(data)))
                total += len(data)
            finally:
                os.close(descriptor)
            count += 1
        return count, b"".join(parts), None

    async def _send_large(self, response: web.StreamResponse, replica_id: int, descriptor: int) -> None:
        size, offset, value = os.fstat(descriptor).st_size, 0, 1

        def read(at: int, before: int) -> tuple[bytes, int]:
            data = os.pread(descriptor, CHUNK_BYTES, at)
            return data, adler32(data, before)

        ahead: asyncio.Task[tuple[bytes, int]] | None = None
        try:
            await response.write(bulkframes.begin(replica_id, size))
            ahead = asyncio.create_task(self._service.on_disk(read, offset, value))
            while offset < size:
                data, value = await ahead
                if not data:
                    raise OSError("the file became shorter")
                offset += len(data)
                ahead = asyncio.create_task(self._service.on_disk(read, offset, value))
                await response.write(bulkframes.data_header(replica_id, len(data)))
                await response.write(data)
                self._service.metrics.sent_bytes.labels("archive").inc(len(data))
            await response.write(bulkframes.end(replica_id, value))
        except ConnectionError:
            raise
        except OSError as exc:
            await response.write(bulkframes.error(replica_id, self._unreadable(replica_id, exc)))
        finally:
            if ahead is not None:
                # It reads from the descriptor that is closed next.
                await asyncio.wait([ahead])
                if not ahead.cancelled():
                    ahead.exception()
            os.close(descriptor)

    def _unreadable(self, replica_id: int, exc: OSError) -> CapstanError:
        if isinstance(exc, FileNotFoundError):
            return NotOnline(path=f"replica {replica_id}", why="the disk does not have it")
        return Unavailable(what=f"replica {replica_id}", why=os.strerror(exc.errno) if exc.errno else str(exc))


class Arrivals:
    """The files of one stream on their way in. `take` runs in a thread, one batch after the other."""

    def __init__(self, service: Service, epoch: int) -> None:
        self._service = service
        self._epoch = epoch
        #: reservation id -> bytes
        self._room: dict[int, int] = {}
        self._present: Incoming | None = None
        self._expected = 0
        self._adler32 = 1
        #: the file that is being skipped after an ERROR
        self._refused: int | None = None
        #: reservations that ended while the stream goes on: what still comes for them is refused
        self._over: set[int] = set()
        self.ended = False

    async def learn(self, frames: Sequence[Frame]) -> None:
        """Read the mount's reservations again when a file begins that none is known for."""
        if all(frame.id in self._room for frame in frames if frame.kind is Kind.DATA_BEGIN):
            return
        async with self._service.database.connection() as connection:
            promised = await replicas.reservations_of(connection, self._service.name, epoch=self._epoch)
        self._room = {one.id: one.bytes for one in promised if one.kind == "recall" and one.id not in self._over}

    def forget(self, ids: Collection[int]) -> None:
        """These reservations ended: nothing more is published for them, whatever is on its way."""
        self._over.update(ids)
        for id in ids:
            self._room.pop(id, None)

    def take(self, frames: Sequence[Frame]) -> bytes:
        """Work off a batch; the frames of the answer. Raises BadFrames."""
        answers: list[bytes] = []
        for frame in frames:
            try:
                answer = self._take(frame)
            except BadFrames:
                raise
            except OSError as exc:
                why = os.strerror(exc.errno) if exc.errno else str(exc)
                answer = self._refuse(frame, Unavailable(what="the disk", why=why))
            except CapstanError as exc:
                answer = self._refuse(frame, exc)
            if answer:
                answers.append(answer)
        return b"".join(answers)

    def close(self) -> None:
        """The stream ended: what was not finished goes."""
        self._drop()

    def _take(self, frame: Frame) -> bytes:
        match frame.kind:
            case Kind.DATA_BEGIN:
                self._begin(frame)
            case Kind.DATA if frame.id == self._refused:
                pass
            case Kind.DATA:
                self._append(frame)
            case Kind.DATA_END | Kind.ABORT if frame.id == self._refused:
                self._refused = None
            case Kind.DATA_END:
                return self._end(frame)
            case Kind.ABORT:
                self._drop()
            case Kind.BYE:
                self.ended = True
            case _:
                raise BadFrames(why=f"a {frame.kind.name} frame has no business here")
        return b""

    def _begin(self, frame: Frame) -> None:
        if self._present is not None:
            raise BadFrames(why="a file begins within another")
        self._refused = None
        room = self._room.get(frame.id)
        if room is None:
            raise WrongState(object=f"reservation {frame.id}", state="gone", action="an arrival")
        if frame.length > room:
            raise BadRequest(why=f"{frame.length} bytes do not fit the {room} that are reserved")
        self._present = self._service.store.receive(frame.id)
        self._expected, self._adler32 = frame.length, 1

    def _append(self, frame: Frame) -> None:
        incoming = self._of(frame)
        if incoming.size + frame.length > self._expected:
            raise BadRequest(why=f"the file is longer than the {self._expected} bytes that were announced")
        self._adler32 = adler32(frame.payload, self._adler32)
        incoming.write([frame.payload])

    def _end(self, frame: Frame) -> bytes:
        incoming = self._of(frame)
        if incoming.size != self._expected:
            raise ShortBody(received=incoming.size, expected=self._expected)
        if frame.adler32 != self._adler32:
            raise BadRequest(why=f"adler32 {frame.adler32:08x} was sent, {self._adler32:08x} arrived")
        self._present = None
        incoming.publish(durable=False)
        # Asked after the rename: `forget` comes before the removal, so one of the two sees the other.
        if self._room.pop(frame.id, None) is None:
            self._service.store.remove(frame.id)
            raise WrongState(object=f"reservation {frame.id}", state="gone", action="an arrival")
        self._service.metrics.received_bytes.labels("recall").inc(incoming.size)
        self._service.metrics.files_received.labels("recall").inc()
        return bulkframes.ack(frame.id, self._adler32)

    def _of(self, frame: Frame) -> Incoming:
        if self._present is None or self._present.replica_id != frame.id:
            raise BadFrames(why=f"{frame.kind.name} of {frame.id}, which has not begun")
        return self._present

    def _refuse(self, frame: Frame, error: CapstanError) -> bytes:
        """One answer for the file; what still comes of it is skipped."""
        self._drop()
        if frame.kind is not Kind.DATA_END:
            self._refused = frame.id
        self._service.metrics.failures.labels("recall", error.code).inc()
        log.warning("an arrival was refused", reservation=frame.id, epoch=self._epoch, code=error.code, why=str(error))
        return bulkframes.error(frame.id, error)

    def _drop(self) -> None:
        present, self._present = self._present, None
        if present is not None:
            present.discard()


async def _batches(body: StreamReader, idle_seconds_max: float) -> AsyncIterator[list[Frame]]:
    """What arrives together, until the end. Raises BadFrames, TimedOut, ConnectionError."""
    reader = FrameReader(body)
    while True:
        try:
            async with asyncio.timeout(idle_seconds_max):
                frames = await reader.batch()
        except TimeoutError as exc:
            raise TimedOut(what="the next frame", seconds=idle_seconds_max) from exc
        if not frames:
            return
        yield frames


async def _bye(response: web.StreamResponse) -> None:
    # A mover that has got its last answer may be gone already: nothing is lost by that.
    with contextlib.suppress(ConnectionResetError):
        await response.write_eof(bulkframes.bye())


async def _some(wants: asyncio.Queue[int | None]) -> list[int] | None:
    """All that is wanted now, at most so many; None after the last."""
    first = await wants.get()
    if first is None:
        return None
    found = [first]
    while len(found) < READ_TOGETHER_FILES and not wants.empty():
        following = wants.get_nowait()
        if following is None:
            wants.put_nowait(None)
            break
        found.append(following)
    return found

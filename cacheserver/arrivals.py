"""Recalled files on their way in, from the frames of one mover's stream: temporary name, checksum, rename, ACK.

No fsync: the copy is on tape, and after an unclean stop the file is checksummed before use. Works in the stream's
thread; the catalog is asked when a mount has new reservations, never for a file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence

import structlog

from cacheserver.checksums import adler32
from cacheserver.service import Service
from cacheserver.store import Incoming
from catalog import replicas
from catalog.errors import BadRequest, CapstanError, ShortBody, Unavailable, WrongState
from client import bulkframes
from client.bulkframes import BadFrames, Frame, Kind

log = structlog.get_logger(__name__)
#: for the catalog to name a mount's reservations
LEARN_SECONDS_MAX = 60.0


class Arrivals:
    """The files of one stream. `take` runs in one thread, one batch after the other."""

    def __init__(self, service: Service, epoch: int, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._epoch = epoch
        self._received_bytes = service.metrics.received_bytes.labels("recall")
        self._received_files = service.metrics.files_received.labels("recall")
        self._loop = loop
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

    def learn(self, frames: Sequence[Frame]) -> None:
        """Read the mount's reservations again when a file begins that none is known for."""
        if not all(frame.id in self._room for frame in frames if frame.kind is Kind.DATA_BEGIN):
            asyncio.run_coroutine_threadsafe(self._learn(), self._loop).result(LEARN_SECONDS_MAX)

    async def _learn(self) -> None:
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
        self._received_bytes.inc(incoming.size)
        self._received_files.inc()
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

"""PUT, GET and HEAD of single files by signed URL. What a URL may do, the door has decided; here it is done.

A PUT answers after the bytes are durable and the catalog has committed, in this order, and never otherwise. A GET of
what the disk does not have answers 503, never 404: the name exists, and the door knows another way to the bytes.
"""

from __future__ import annotations

import asyncio
import os

import structlog
from aiohttp import web

from cacheserver import ranges, upload
from cacheserver.checksums import Checksums, adler32_of
from cacheserver.sendfile import send
from cacheserver.service import Service
from cacheserver.store import Buffer, Incoming
from catalog import puts, replicas
from catalog.database import CACHE
from catalog.errors import (
    BadRequest,
    CapstanError,
    CatalogUnreachable,
    NoSpace,
    NotOnline,
    TooBusy,
    Unavailable,
)
from catalog.model import FileRecord
from catalog.puts import Landed
from catalog.signing import GetClaims, PutClaims
from client.serving import expect_after, json_response

log = structlog.get_logger(__name__)
_ADMITTED = web.RequestKey("admitted", PutClaims)


class Transfers:
    """The handlers of `/replica`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._config = service.config

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/replica", self.get, allow_head=True)
        app.router.add_put("/replica", self.put, expect_handler=expect_after(self._before_body))

    # ---------------------------------------------------------------- in

    async def put(self, request: web.Request) -> web.StreamResponse:
        """201 with the file's record; 200 when an earlier PUT with this URL has stored it already."""
        if _ADMITTED not in request:
            answer = await self._before_body(request)
            if answer is not None:
                return answer
        claims: PutClaims = request[_ADMITTED]
        if claims.replica_id in self._service.active:
            raise TooBusy(what=f"the upload of {claims.path}", limit=1, retry_after_seconds=5)
        self._service.active.add(claims.replica_id)
        try:
            with self._service.transfer():
                record = await self._store(request, claims)
        except CapstanError as error:
            self._service.metrics.failures.labels("put", error.code).inc()
            raise
        finally:
            self._service.active.discard(claims.replica_id)
        self._service.metrics.files_received.labels("put").inc()
        log.info("file stored", file=record.file_id, path=record.path, size=record.size, replica=claims.replica_id)
        return json_response(stored_answer(record), status=201, headers={"Digest": f"adler32={record.adler32}"})

    async def _before_body(self, request: web.Request) -> web.StreamResponse | None:
        self._service.check_serving()
        claims = await self._service.claims(request.query.get("sig", ""), PutClaims)
        Checksums(claims.digests)
        length = request.content_length
        if claims.size is not None and length is not None and length != claims.size:
            raise BadRequest(why=f"Content-Length is {length}, and the URL is for {claims.size} bytes")
        async with self._service.database.connection() as connection:
            done = await puts.is_spent(connection, claims)
        if done is not None:
            return json_response(stored_answer(done), status=200)
        request[_ADMITTED] = claims
        return None

    async def _store(self, request: web.Request, claims: PutClaims) -> FileRecord:
        checksums = Checksums(claims.digests)
        size = claims.size if claims.size is not None else request.content_length
        incoming: Incoming | None = None
        try:
            room = await self._room(claims, size)
            if size is not None and size <= self._config.write_chunk_bytes:
                body = await upload.receive_small(self._service, request.content, size=size)
                await self._service.on_disk(self._land, claims.replica_id, body, checksums)
            else:
                incoming = await self._service.on_disk(self._service.store.receive, claims.replica_id)
                await upload.receive(
                    self._service, request.content, incoming, checksums, size=size, room=room, grow=self._grower(claims)
                )
                size = incoming.size
                checksums.check()
                await self._service.on_disk(_publish_durably, incoming)
        except BaseException as exc:
            await asyncio.shield(self._undo(claims, incoming))
            if isinstance(exc, OSError):
                raise _disk_error(exc) from exc
            raise
        landed = Landed(claims=claims, size=size, adler32=checksums.adler32_hex, digests=checksums.others)
        return await self._commit(landed)

    def _land(self, replica_id: int, body: list[Buffer], checksums: Checksums) -> None:
        """A small file in one visit to a thread."""
        checksums.update(body)
        checksums.check()
        incoming = self._service.store.receive(replica_id)
        try:
            incoming.write(body)
        except BaseException:
            incoming.discard()
            raise
        _publish_durably(incoming)

    async def _room(self, claims: PutClaims, size: int | None) -> int:
        """Reserved bytes. A length that only the client's header tells is made room for before the body."""
        if claims.size is not None:
            return claims.size
        if size is not None and size > puts.UNSIZED_STEP_BYTES:
            return await self._grower(claims)(size - puts.UNSIZED_STEP_BYTES)
        return puts.UNSIZED_STEP_BYTES

    def _grower(self, claims: PutClaims) -> upload.Grow:
        async def grow(missing: int) -> int:
            # A step at least, and a part of what is there already: few steps for a large file.
            step = max(missing, puts.UNSIZED_STEP_BYTES)
            try:
                async with self._service.database.transaction() as connection:
                    return await replicas.grow_reservation(connection, claims.replica_id, bytes=step)
            except NoSpace as refusal:
                await replicas.report_refusal(self._service.database, refusal)
                raise

        return grow

    async def _commit(self, landed: Landed) -> FileRecord:
        """The name appears. An outcome that is unknown to the end is a 503, and the bytes stay for the reconciler."""
        try:
            return await self._service.commits.commit(landed)
        except CatalogUnreachable:
            raise
        except Exception as refusal:  # noqa: BLE001  # raised again, unless it is stored after all
            return await self._refused(landed.claims, refusal)

    async def _refused(self, claims: PutClaims, refusal: Exception) -> FileRecord:
        """The commit was refused for good, unless an earlier try, whose answer was lost, was what refused this one."""
        record = await asyncio.shield(self._undo(claims, None))
        if record is None:
            raise refusal
        return record

    async def _undo(self, claims: PutClaims, incoming: Incoming | None) -> FileRecord | None:
        """Clear a failed upload away; the record when it turns out to have been committed before.

        Published bytes go only when the catalog says that nothing was committed: abandoning the reservation waits for
        a commit that is still under way, and the question after it sees what that made. The space is given back last.
        """
        try:
            if incoming is not None:
                await self._service.on_disk(incoming.discard)
            async with self._service.database.transaction() as connection:
                await puts.abandon(connection, claims.replica_id)
                record = await puts.first_result(connection, claims)
            if record is None:
                await self._service.on_disk(self._service.store.remove, claims.replica_id)
                async with self._service.database.transaction() as connection:
                    await puts.abort(connection, claims.replica_id)
        except (OSError, CapstanError) as exc:
            # The reservation runs out, and the reconciler takes its bytes with it.
            log.warning("an upload was not cleared away", replica=claims.replica_id, why=str(exc))
            return None
        self._service.database.wake(CACHE)
        return record

    # ---------------------------------------------------------------- out

    async def get(self, request: web.Request) -> web.StreamResponse:
        """200, 206, 304 or 416; 503 `not_online` when the disk does not have it (any more)."""
        claims = await self._service.claims(request.query.get("sig", ""), GetClaims)
        headers = {
            "ETag": f'"{claims.adler32}"',
            "Digest": f"adler32={claims.adler32}",
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if ranges.none_match(request.headers.get("If-None-Match"), claims.adler32):
            return web.Response(status=304, headers={"ETag": headers["ETag"]})
        wanted = ranges.wanted(
            request.headers.get("Range"), request.headers.get("If-Range"), claims.size, claims.adler32
        )
        with self._service.transfer():
            descriptor = await self._open(claims)
            try:
                return await self._send(request, claims, descriptor, wanted, headers)
            finally:
                os.close(descriptor)

    async def _open(self, claims: GetClaims) -> int:
        try:
            descriptor = await self._service.on_disk(self._service.store.open, claims.replica_id)
        except FileNotFoundError as exc:
            raise self._service.not_online(claims.replica_id, claims.name) from exc
        try:
            await self._check(claims, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    async def _check(self, claims: GetClaims, descriptor: int) -> None:
        """Of the right size, and of the right checksum where an unclean stop made that doubtful."""
        why = ""
        if os.fstat(descriptor).st_size != claims.size:
            why = "its size is wrong"
        elif claims.replica_id in self._service.unverified:
            if await self._service.on_disk(adler32_of, descriptor) == claims.adler32:
                self._service.is_verified(claims.replica_id)
            else:
                why = "its checksum is wrong"
        if why:
            async with self._service.database.transaction() as connection:
                await replicas.quarantine(connection, claims.replica_id, why)
            await self._service.on_disk(self._service.store.put_aside, claims.replica_id)
            self._service.metrics.quarantined_files.labels("damaged").inc()
            raise NotOnline(path=claims.name, why=f"the replica is damaged: {why}", retry_after_seconds=1)

    async def _send(
        self,
        request: web.Request,
        claims: GetClaims,
        descriptor: int,
        wanted: ranges.Slice | None,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        offset, length = (0, claims.size) if wanted is None else (wanted.offset, wanted.length)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{claims.size}"
        response = web.StreamResponse(status=200 if wanted is None else 206, headers=headers)
        response.content_length = length
        await response.prepare(request)
        if request.method != "HEAD" and length:
            try:
                await self._send_bytes(request, descriptor, offset, length)
            except (ConnectionError, TimeoutError) as exc:
                # Its affair; it sees a connection that ended early.
                log.info("a client went away", replica=claims.replica_id, why=str(exc))
                self._service.metrics.failures.labels("get", "client_gone").inc()
                if request.transport is not None:
                    request.transport.abort()
                return response
        await response.write_eof()
        return response

    async def _send_bytes(self, request: web.Request, descriptor: int, offset: int, length: int) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client went away")
        await send(
            request.transport,
            descriptor,
            offset=offset,
            length=length,
            executor=self._service.threads,
            call_bytes=self._config.sendfile_bytes,
            idle_seconds_max=self._config.idle_seconds_max,
        )
        self._service.metrics.sent_bytes.labels("get").inc(length)
        self._service.metrics.files_sent.labels("get").inc()


def stored_answer(record: FileRecord) -> dict[str, object]:
    """What a PUT answers, here and on the door."""
    return {
        "path": record.path,
        "file_id": record.file_id,
        "size": record.size,
        "adler32": record.adler32,
        "state": "on disk, not yet on tape",
        "storage_class": record.storage_class,
    }


def _publish_durably(incoming: Incoming) -> None:
    incoming.publish(durable=True)


def _disk_error(exc: OSError) -> CapstanError:
    if exc.errno in (28, 122):  # ENOSPC, EDQUOT
        return NoSpace(bytes=0, why="the file system is full", retry_after_seconds=30)
    return Unavailable(what="the disk", why=os.strerror(exc.errno) if exc.errno else str(exc), retry_after_seconds=5)

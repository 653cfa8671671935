"""The body of one PUT onto the disk: checksummed on the way, written in big pieces while the next one arrives.

Knows no names and no catalog but for one thing: a body of unknown length asks for more space as it grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import StreamReader, web

from cacheserver.checksums import Checksums
from cacheserver.config import Config
from cacheserver.service import Service
from cacheserver.store import Buffer, Incoming
from cacheserver.threads import in_thread
from catalog.errors import BadRequest, ShortBody, TimedOut, TooLarge

#: makes room for at least so many bytes; the bytes that there is room for now
Grow = Callable[[int], Awaitable[int]]


async def receive(
    service: Service,
    body: StreamReader,
    incoming: Incoming,
    checksums: Checksums,
    *,
    size: int | None,
    room: int,
    grow: Grow,
) -> None:
    """Write the whole body to `incoming`. `size`: what it must have; None: what comes, in steps of reserved space.

    Raises ShortBody (also when the client goes away), TooLarge, BadRequest (longer than promised), TimedOut, NoSpace.
    """
    pending: asyncio.Task[None] | None = None
    total = 0
    try:
        while chunks := await _gather(body, service.config):
            total += sum(map(len, chunks))
            if size is not None and total > size:
                raise BadRequest(why=f"the body is longer than the {size} bytes that were announced")
            if total > service.config.file_bytes_max:
                raise TooLarge(what="the file", actual=total, limit=service.config.file_bytes_max)
            while size is None and total > room:
                room = await grow(total - room)
            if pending is not None:
                await pending
            pending = asyncio.create_task(_write(service, incoming, checksums, chunks))
        if pending is not None:
            await pending
            pending = None
    finally:
        if pending is not None:
            # Nobody is interested in its result any more, but it still works on the descriptor.
            await asyncio.wait([pending])
            if not pending.cancelled():
                pending.exception()
    if size is not None and total != size:
        raise ShortBody(received=total, expected=size)


async def receive_small(service: Service, body: StreamReader, *, size: int) -> list[Buffer]:
    """The whole body, which has at most one chunk. Raises ShortBody, BadRequest, TimedOut as `receive`."""
    chunks: list[Buffer] = []
    total = 0
    while more := await _gather(body, service.config):
        chunks += more
        total += sum(map(len, more))
        if total > size:
            raise BadRequest(why=f"the body is longer than the {size} bytes that were announced")
    if total != size:
        raise ShortBody(received=total, expected=size)
    service.metrics.received_bytes.labels("put").inc(total)
    return chunks


async def _gather(body: StreamReader, config: Config) -> list[Buffer]:
    """The next pieces, together `write_chunk_bytes` or a little more; [] at the end."""
    chunks: list[Buffer] = []
    count = 0
    try:
        while count < config.write_chunk_bytes:
            async with asyncio.timeout(config.idle_seconds_max):
                chunk, _ = await body.readchunk()
            if not chunk:
                if body.at_eof():
                    break
                continue
            chunks.append(chunk)
            count += len(chunk)
    except TimeoutError as exc:
        raise TimedOut(what="the next piece of the body", seconds=config.idle_seconds_max) from exc
    except (web.RequestPayloadError, ConnectionError) as exc:
        raise ShortBody(received="some", expected="all") from exc
    return chunks


async def _write(service: Service, incoming: Incoming, checksums: Checksums, chunks: list[Buffer]) -> None:
    def work() -> None:
        checksums.update(chunks)
        incoming.write(chunks)

    await in_thread(service.threads, work)
    service.metrics.received_bytes.labels("put").inc(sum(map(len, chunks)))

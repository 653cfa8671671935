"""The event stream (server-sent events): what the outbox holds, to readers that come and go.

At least once and in order; a reader goes on with Last-Event-ID. Each reader reads the catalog by itself, in bounded
pages, woken by one listener for all; who reads slowly holds nobody up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from catalog import events
from catalog.database import EVENTS, Database
from catalog.errors import CatalogUnreachable, TooBusy
from catalog.model import Action, Principal, grants_cover
from tapeserver.door.context import context_of, principal_of

log = structlog.get_logger(__name__)

#: the net below wake-ups; also what an open writer delays events by
POLL_SECONDS = 1.0
KEEPALIVE_SECONDS = 15.0
PAGE = 500


class Bell:
    """Rings for every reader when something may have happened. One listening connection, however many read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rung = asyncio.Event()
        self.readers = 0
        self.closing = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._database.listen([EVENTS]) as wakeups:
            while True:
                await wakeups.wait(EVENTS, POLL_SECONDS)
                rung, self._rung = self._rung, asyncio.Event()
                rung.set()

    async def wait(self) -> None:
        """For the next ring, the end of the server, or a poll's time."""
        waiters = [asyncio.ensure_future(self._rung.wait()), asyncio.ensure_future(self.closing.wait())]
        try:
            await asyncio.wait(waiters, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()


BELL = web.AppKey("bell", Bell)


async def run_bell(app: web.Application) -> AsyncIterator[None]:
    """For `cleanup_ctx`: the listener lives as long as the app."""
    task = asyncio.create_task(app[BELL].run(), name="door-events")
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def stop_readers(app: web.Application) -> None:
    """For `on_shutdown`: streams without an end must not hold the server up."""
    app[BELL].closing.set()


async def stream(request: web.Request) -> web.StreamResponse:
    """`id: transaction.id.incarnation`, `event: kind`, `data: {subject, at, …}`; a comment now and then."""
    context, principal, bell = context_of(request), principal_of(request), request.app[BELL]
    if bell.readers >= context.event_readers_max:
        raise TooBusy(what="the number of event readers", limit=context.event_readers_max, retry_after_seconds=10)
    text = request.headers.get("Last-Event-ID") or request.query.get("after")
    async with context.database.connection() as connection:
        position = events.Position.parse(text) if text else await events.present(connection)
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    bell.readers += 1
    try:
        await response.prepare(request)
        await response.write(f": from {position}\n\n".encode())
        await _send_all(request, response, principal, position)
    except ConnectionResetError:
        log.debug("event reader left")
    finally:
        bell.readers -= 1
    return response


async def _send_all(
    request: web.Request, response: web.StreamResponse, principal: Principal, position: events.Position
) -> None:
    context, bell = context_of(request), request.app[BELL]
    loop = asyncio.get_running_loop()
    sent_at = loop.time()
    while not bell.closing.is_set():
        try:
            async with context.database.connection() as connection:
                page = await events.read_after(connection, position, PAGE)
        except CatalogUnreachable:
            page = []
        frames = b"".join(_frame(event) for event in page if may_see(principal, event))
        if page:
            position = page[-1].position
        if frames:
            await response.write(frames)
            sent_at = loop.time()
        elif loop.time() - sent_at > KEEPALIVE_SECONDS:
            # The position too, so that a reader who sees only others' events does not start far behind.
            await response.write(f": {position}\n\n".encode())
            sent_at = loop.time()
        if len(page) < PAGE:
            await bell.wait()


def may_see(principal: Principal, event: events.Event) -> bool:
    """Administrators see all; others what is theirs, and paths that they may look at."""
    if principal.is_admin:
        return True
    if event.subject.startswith("/"):
        return grants_cover(principal.grants, Action.POLL, event.subject)
    return event.data.get("owner") == principal.owner


def _frame(event: events.Event) -> bytes:
    data = json.dumps({"kind": event.kind, "subject": event.subject, "at": event.at.timestamp(), "data": event.data})
    return f"id: {event.position}\nevent: {event.kind}\ndata: {data}\n\n".encode()

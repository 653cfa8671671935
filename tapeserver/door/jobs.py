"""Jobs calls are passed on to the job server, which the catalog's `server` table names. Nothing is understood here."""

from __future__ import annotations

from aiohttp import web

from catalog import reading
from catalog.errors import Unavailable
from tapeserver.door.context import DoorContext, context_of
from tapeserver.door.relay import relay_call


async def relay(request: web.Request) -> web.StreamResponse:
    """Method, path, query, body and authorization go on as they are; the answer comes back streamed."""
    context = context_of(request)
    server = await job_server(context)
    url = server.url.rstrip("/") + request.raw_path
    return await relay_call(request, context, url, what=f"job server {server.name}")


async def job_server(context: DoorContext) -> reading.Server:
    """A job server that has sent a heartbeat lately. Raises Unavailable."""
    async with context.database.connection() as connection:
        servers = await reading.servers(connection, "jobserver")
    if not servers or not servers[0].live:
        raise Unavailable(what="the job server", why="it has sent no heartbeat lately", retry_after_seconds=2)
    return servers[0]

"""The cache server process: claims its disk, registers, compares disk and catalog, and serves until told to stop."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog
import uvloop
from aiohttp import web

from cacheserver.bulk import BulkStreams
from cacheserver.config import Config
from cacheserver.data import Transfers
from cacheserver.reconcile import reconcile, reconcile_for_ever, verify_all
from cacheserver.service import Service
from cacheserver.store import Disk, Store
from cacheserver.upkeep import Upkeep
from catalog import replicas
from catalog.attempts import attempt
from catalog.cacheservers import server_named
from catalog.database import Database
from catalog.errors import BadConfig, CatalogUnreachable
from catalog.signing import AdminClaims
from client.serving import Handler, json_response, listen, problem_middleware, url_at

log = structlog.get_logger(__name__)

#: see docs/design/0005-moving-bytes.md
new_event_loop = uvloop.new_event_loop
CAPACITY_PART = 0.9
START_PAUSE_SECONDS = 0.5
#: after a round of checksums that was broken off
RETRY_SECONDS = 1.0
T = TypeVar("T")


async def serve(config: Config, *, ready: Callable[[int], None], stop: asyncio.Event, disk: Disk | None = None) -> None:
    """Run one cache server. `ready` is called with the port once it answers. Raises BadConfig, WrongRoot.

    `disk`: another implementation of the calls that change the disk, for tests.
    """
    check(config)
    database = Database(
        config.database_url, connections_max=config.database_connections_max, application_name="capstan cacheserver"
    )
    async with database:
        store = Store(Path(config.root).absolute(), free_bytes_min=config.free_bytes_min, disk=disk)
        root_id = await _claim(config, database, store)
        service = Service(config, database, store)
        service.root_id = root_id
        upkeep = Upkeep(service)
        was_clean = await service.on_disk(store.begin_running)
        listener = await listen(
            application(service, upkeep),
            host=config.host,
            port=config.port,
            read_buffer_bytes=config.read_buffer_bytes,
        )
        try:
            await _until_reachable(lambda: reconcile(service, at_start=True, was_clean=was_clean))
            await _until_reachable(lambda: _register(config, database, store, root_id, listener.port))
            await _until_reachable(upkeep.beat)
            service.serving = True
            ready(listener.port)
            await _run(service, upkeep, stop)
        finally:
            await listener.close()
            await asyncio.to_thread(service.threads.shutdown, wait=True)
        # What is still to be checksummed, the rows say.
        await asyncio.to_thread(store.end_running)


def check(config: Config) -> None:
    """Raises BadConfig."""
    why = ""
    if not config.name:
        why = "a cache server needs a name"
    elif not config.root:
        why = "a cache server needs a root, a directory of its own"
    elif not 0 < config.low_watermark < config.high_watermark <= 1:
        why = "0 < low_watermark < high_watermark <= 1 must hold"
    elif config.write_chunk_bytes < 1 or config.transfers_max < 1 or config.disk_threads < 1:
        why = "write_chunk_bytes, transfers_max and disk_threads must be at least 1"
    if why:
        raise BadConfig(source="cacheserver", why=why)


def application(service: Service, upkeep: Upkeep) -> web.Application:
    @web.middleware
    async def only_when_serving(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in ("/healthz", "/metrics"):
            service.check_serving()
        return await handler(request)

    async def health(_: web.Request) -> web.Response:
        answer = {"name": service.name, "kind": "cacheserver", "ok": service.serving, "sweeps": upkeep.sweeps}
        return json_response(answer)

    async def metrics(_: web.Request) -> web.Response:
        service.metrics.transfers.set(service.transfers)
        return web.Response(body=service.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def sweep(request: web.Request) -> web.Response:
        await service.claims(request.query.get("sig", ""), AdminClaims)
        await upkeep.sweep()
        return json_response({"ok": True})

    app = web.Application(middlewares=[problem_middleware, only_when_serving])
    app.router.add_get("/healthz", health)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/sweep", sweep)
    Transfers(service).add_routes(app)
    BulkStreams(service).add_routes(app)
    return app


async def _claim(config: Config, database: Database, store: Store) -> str:
    async def ask() -> str | None:
        async with database.connection() as connection:
            known = await server_named(connection, config.name)
        return known.root_id if known else None

    known = await _until_reachable(ask)
    return await asyncio.to_thread(store.claim, known)


async def _register(config: Config, database: Database, store: Store, root_id: str, port: int) -> None:
    capacity = config.capacity_bytes or int(shutil.disk_usage(store.root).total * CAPACITY_PART)
    async with database.transaction() as connection:
        await replicas.register_server(
            connection,
            name=config.name,
            url=url_at(config.host, port),
            root_id=root_id,
            host=socket.gethostname(),
            root=str(store.root),
            capacity_bytes=capacity,
            high=config.high_watermark,
            low=config.low_watermark,
        )


async def _run(service: Service, upkeep: Upkeep, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        loops = [
            tasks.create_task(upkeep.beat_for_ever(), name="heartbeat"),
            tasks.create_task(upkeep.sweep_for_ever(), name="sweep"),
            tasks.create_task(upkeep.evictable.look_for_ever(), name="evictable"),
            tasks.create_task(reconcile_for_ever(service), name="reconcile"),
            tasks.create_task(_verify(service), name="verify"),
        ]
        await stop.wait()
        for loop in loops:
            loop.cancel()


async def _verify(service: Service) -> None:
    while service.unverified or service.verified:
        if not await attempt("verify replicas", lambda: verify_all(service)):
            await asyncio.sleep(RETRY_SECONDS)


async def _until_reachable(work: Callable[[], Awaitable[T]]) -> T:
    """At the start the catalog may be starting too."""
    while True:
        try:
            return await work()
        except CatalogUnreachable as exc:
            log.warning("waiting for the catalog", why=str(exc))
            await asyncio.sleep(START_PAUSE_SECONDS)

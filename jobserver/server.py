"""The process: puts the job server's parts together, says that it is there, and ends them together.

It holds no rule of its own. One job server works in a data directory: a second one is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from catalog.database import Database
from catalog.errors import BadConfig, CapstanError
from client.operatormessages import ServerBody
from client.serving import json_response, listen, problem_middleware, url_at
from jobserver import store
from jobserver.api import JobsApi
from jobserver.batch import BatchSystem
from jobserver.batch.local import LocalBatch
from jobserver.config import Config
from jobserver.doors import Doors
from jobserver.migrations import upgrade
from jobserver.prestaging import Prestager, wake_on_events

log = structlog.get_logger(__name__)

#: with no door for so long it serves all the same, and registers when one comes
FIRST_HEARTBEAT_SECONDS_MAX = 20.0


async def serve(config: Config, *, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Run until `stop` is set; `ready` is called with the port. Jobs that run go on, and the next start adopts them.

    Brings the schema `jobs` up to date first; the catalog's own must be. Raises BadConfig when another job server
    works in `data_dir`.
    """
    _check(config)
    with _alone_in(config.data_dir):
        await upgrade(config.database_url)
        async with (
            Database(config.database_url, application_name=f"capstan {config.name}") as database,
            Doors(config.door_urls, config.token_file) as doors,
        ):
            batch = LocalBatch(
                database,
                config.data_dir / "local",
                slots=config.slots_or_default(),
                argv_bytes_max=config.argv_bytes_max,
                output_bytes_max=config.output_bytes_max,
                kill_after_seconds=config.kill_after_seconds,
            )
            prestager = Prestager(config, database, batch, doors)
            app = make_app(config, database, batch, doors, prestager)
            listener = await listen(app, host=config.host, port=config.port)
            try:
                async with asyncio.TaskGroup() as tasks:
                    url, told = url_at(config.host, listener.port), asyncio.Event()
                    working = [
                        tasks.create_task(batch.run(on_change=prestager.wake), name="local-batch"),
                        tasks.create_task(prestager.run(), name="prestager"),
                        tasks.create_task(wake_on_events(doors, prestager), name="events"),
                        tasks.create_task(_tell_doors(config, doors, url, told), name="heartbeat"),
                    ]
                    # Before a door knows of this server, nobody reaches it: it does not serve yet.
                    await _first_of(told, stop, seconds=FIRST_HEARTBEAT_SECONDS_MAX)
                    ready(listener.port)
                    log.info("job server ready", url=url)
                    await stop.wait()
                    for task in working:
                        task.cancel()
            finally:
                await listener.close()


def _check(config: Config) -> None:
    """What has no sensible default. Raises BadConfig."""
    for name in ("database_url", "door_urls", "token_file", "data_dir"):
        if getattr(config, name) in ("", [], Path()):
            raise BadConfig(source="jobserver", why=f"{name} is not set")


def make_app(
    config: Config, database: Database, batch: BatchSystem, doors: Doors, prestager: Prestager
) -> web.Application:
    """The HTTP side: the jobs API, /healthz and /metrics."""
    app = web.Application(middlewares=[problem_middleware])
    JobsApi(config, database, batch, doors, prestager).add_routes(app)

    async def healthz(request: web.Request) -> web.StreamResponse:
        answer = {"name": config.name, "kind": "jobserver", "ok": True, "waits_for": prestager.trouble}
        return json_response(answer)

    async def metrics(request: web.Request) -> web.StreamResponse:
        async with database.connection() as connection:
            by_state, oldest = await store.counts(connection)
        registry = CollectorRegistry()
        jobs = Gauge("capstan_jobs", "Jobs by state", ["state"], registry=registry)
        for state, count in by_state.items():
            jobs.labels(state).set(count)
        age = Gauge("capstan_jobs_oldest_waiting_seconds", "Age of the oldest job not begun", registry=registry)
        age.set(oldest)
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    return app


async def _tell_doors(config: Config, doors: Doors, url: str, told: asyncio.Event) -> None:
    """The heartbeat by which doors find this server; `told` is set after the first that was heard."""
    body = ServerBody(kind="jobserver", name=config.name, url=url, host=config.host_name, pid=os.getpid())
    silent = False
    while True:
        try:
            await doors.heartbeat(body)
            told.set()
            silent = False
            pause = config.heartbeat_seconds
        except CapstanError as error:
            if not silent:
                log.warning("no door was told of this job server", reason=str(error))
            silent, pause = True, 0.25
        await asyncio.sleep(pause)


async def _first_of(*events: asyncio.Event, seconds: float) -> None:
    """Return when one of them is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "jobserver.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadConfig(source="data_dir", why=f"another job server works in {directory}") from error
        yield

"""A whole site in one test: catalog, virtual libraries, a real cache server and tape server, movers as real processes.

Not a test itself. Servers run as tasks of the test's loop and speak HTTP on loopback; `Site.kill_mover` and
`restart_tapeserver` are what tests of faults want.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import sqlalchemy as sa

import cacheserver.config
import cacheserver.server
import tapeserver.config
import tapeserver.server
from catalog import identity, queues, volumes
from catalog.database import Database
from catalog.model import Action, Grant
from tapeserver.labelling import label_volumes
from tapeserver.library.virtual import add_cartridge, create_virtual_library, drive_names
from tests.waiting import eventually

CAPACITY_BYTES = 200_000_000
RUNNER = "tests.integration.tapeserver_process"


class Site:
    def __init__(self, database: Database, directory: Path, **config: Any) -> None:
        self.database, self.directory = database, directory
        self.config = tapeserver.config.Config(
            name="ts",
            database_url=database.url,
            **{
                "collecting_age_seconds": 0.2,
                "bundle_seconds": 0.0,
                "flush_idle_seconds": 0.0,
                "cooldown_seconds": 0.3,
                "dismount_delay_seconds": 0.1,
                "spare_part": 0.0,
                "planning_interval_seconds": 0.2,
                "backoff_seconds": 0.1,
                "lease_seconds": 4.0,
                "housekeeping_seconds": 0.5,
                **config,
            },
        )
        self.url = ""
        self.token = ""
        self.http: aiohttp.ClientSession
        self._tapeserver: tuple[asyncio.Task[None], asyncio.Event] | None = None
        #: tape servers that run as processes of their own, by name
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        #: their doors, by name
        self.doors: dict[str, str] = {}
        #: directories that `put` has made
        self._made: set[str] = set()

    async def prepare(
        self, libraries: tuple[str, ...], cartridges: int, drives: int = 2, capacity_bytes: int = CAPACITY_BYTES
    ) -> None:
        for name in libraries:
            path = self.directory / name
            library = create_virtual_library(path, name, drives, cartridges)
            vids = [f"{name[0].upper()}{number:05}" for number in range(1, cartridges + 1)]
            for vid in vids:
                add_cartridge(path, vid, capacity_bytes)
            async with self.database.transaction() as connection:
                await volumes.create_library(connection, name=name, kind="virtual", spec=library.spec())
                for drive in drive_names(path, name):
                    await volumes.create_drive(connection, name=drive, library=name)
                await volumes.create_pool(connection, name=name, library=name)
            await label_volumes(self.database, name, name, vids, capacity_bytes=capacity_bytes)
        async with self.database.transaction() as connection:
            await volumes.create_storage_class(connection, name="one", copies=1, pools=list(libraries), is_default=True)
            if len(libraries) > 1:
                await volumes.create_storage_class(connection, name="two", copies=2, pools=list(libraries))
            made = await identity.make_token(
                connection,
                label="test",
                owner="ann",
                groups=["users"],
                grants=[Grant(action=Action.ADMIN, prefix="/")],
                lifetime_seconds=None,
            )
        self.token = made.secret

    async def start_tapeserver(self) -> None:
        port, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
        task = asyncio.create_task(tapeserver.server.serve(self.config, ready=port.set_result, stop=stop))
        done, _ = await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            await task
        self._tapeserver = (task, stop)
        self.url = f"http://127.0.0.1:{port.result()}"

    async def stop_tapeserver(self) -> None:
        assert self._tapeserver is not None
        task, stop = self._tapeserver
        stop.set()
        await task
        self._tapeserver = None

    async def put(self, path: str, data: bytes, *, storage_class: str | None = None) -> None:
        headers = {"Capstan-Storage-Class": storage_class} if storage_class else {}
        parent = path.rpartition("/")[0]
        if parent not in self._made:
            await self.http.request("MKCOL", self.url + parent)
            self._made.add(parent)
        async with self.http.put(self.url + path, data=data, headers=headers) as answer:
            assert answer.status == 201, await answer.text()

    async def get(self, path: str) -> bytes | None:
        async with self.http.get(self.url + path) as answer:
            return await answer.read() if answer.status == 200 else None

    async def drop_from_cache(self, path: str) -> dict[str, Any]:
        body = {"paths": [path], "wait": False}
        async with self.http.post(self.url + "/api/capstan/v1/cache/drop", json=body) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status == 200, found
            return found

    async def stage(self, *paths: str) -> str:
        files = {"files": [{"path": path} for path in paths]}
        async with self.http.post(self.url + "/api/v1/stage", json=files) as answer:
            found = await answer.json()
            assert answer.status == 201, found
            return str(found["requestId"])

    async def set_state(self, what: str, name: str, state: str) -> None:
        body = {"state": state, "reason": "test"}
        async with self.http.post(f"{self.url}/api/capstan/v1/{what}/{name}", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def scalar(self, statement: str, **values: object) -> Any:
        async with self.database.connection() as connection:
            return await connection.scalar(sa.text(statement), values)

    async def crash_tapeserver(self) -> None:
        """End it without a word: nothing is unloaded, nothing given back; its movers die with it."""
        assert self._tapeserver is not None
        task, _ = self._tapeserver
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self._tapeserver = None

    async def spawn_tapeserver(self, name: str) -> None:
        """A tape server as a process of its own; `url` is its door from now on."""
        config = msgspec.structs.replace(self.config, name=name)
        process = self.processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", RUNNER, msgspec.json.encode(config).decode(),
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            self.url = self.doors[name] = f"http://127.0.0.1:{int(await process.stdout.readline())}"

    async def kill_tapeserver(self, name: str) -> None:
        """kill -9; its movers die with it."""
        process = self.processes.pop(name)
        process.kill()
        await process.wait()

    async def kill_processes(self) -> None:
        for name in list(self.processes):
            await self.kill_tapeserver(name)

    def signal_movers(self, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Send it to every mover of this process; their ids. They are children of the loop's own thread."""
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        movers = [int(pid) for pid in children if b"tapeserver.mover" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        for pid in movers:
            os.kill(pid, number)
        return movers

    async def post(self, path: str, **body: Any) -> Any:
        async with self.http.post(f"{self.url}/api/capstan/v1/{path}", json=body) as answer:
            assert answer.status in (200, 201, 204), await answer.text()
            return await answer.json() if answer.content_type == "application/json" else None


@asynccontextmanager
async def running_site(
    database: Database,
    directory: Path,
    *,
    libraries: tuple[str, ...] = ("east", "west"),
    cartridges: int = 3,
    drives: int = 2,
    capacity_bytes: int = CAPACITY_BYTES,
    own_process: bool = False,
    cache_bytes: int = 2_000_000_000,
    **config: Any,
) -> AsyncIterator[Site]:
    site = Site(database, directory, **config)
    await site.prepare(libraries, cartridges, drives, capacity_bytes)
    (directory / "cache").mkdir()
    cache = cacheserver.config.Config(
        name="cache",
        database_url=database.url,
        root=str(directory / "cache"),
        capacity_bytes=cache_bytes,
        free_bytes_min=1,
        heartbeat_seconds=1.0,
        sweep_seconds=0.2,
    )
    ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    task = asyncio.create_task(cacheserver.server.serve(cache, ready=ready.set_result, stop=stop))
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if own_process:
            await site.spawn_tapeserver(site.config.name)
        else:
            await site.start_tapeserver()
        headers = {"Authorization": f"Bearer {site.token}"}
        async with aiohttp.ClientSession(headers=headers) as site.http:
            yield site
        if not own_process:
            await site.stop_tapeserver()
    finally:
        await site.kill_processes()
        stop.set()
        await task


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def adler(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"


# ---------------------------------------------------------------- what tests ask and do


async def all_safe(site: Site) -> bool:
    return not await site.scalar("select count(*) from file where state = 'live' and not file_is_safe(id)")


async def quiet(site: Site) -> bool:
    """Nothing is mounted, claimed, reserved or waited for."""
    left = await site.scalar(
        "select (select count(*) from mount) + (select count(*) from recall) + (select count(*) from archive)"
        " + (select count(*) from reservation) + (select count(*) from stage_item where state in"
        " ('submitted', 'started'))"
    )
    return not left


async def no_drift(site: Site) -> bool:
    async with site.database.connection() as connection:
        return await queues.drift(connection) == []


async def put_many(site: Site, count: int, size: int, *, storage_class: str = "one", prefix: str = "/d") -> list[str]:
    paths = [f"{prefix}/f{number}" for number in range(count)]
    for number, path in enumerate(paths):
        await site.put(path, content(number, size), storage_class=storage_class)
    return paths


@asynccontextmanager
async def in_the_middle(site: Site, count: int, size: int, prefix: str = "/d") -> AsyncIterator[list[str]]:
    """Files put, their paths; entered once a mount has written and flushed some of them and its commit hangs.

    The library is down until all are there, so that one mount takes them; the commit waits for a lock of the test's,
    however fast the machine is.
    """
    await site.set_state("libraries", "east", "down")
    paths = await put_many(site, count, size, prefix=prefix)
    async with site.database.transaction() as connection:
        # Claims pass this lock; the commit of copies that were written and flushed does not.
        await connection.execute(sa.text("select from file for update"))
        await site.set_state("libraries", "east", "up")
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        await eventually(lambda: site.scalar(waiting), seconds=40)
        yield paths


async def drop_all(site: Site, prefix: str = "/d") -> None:
    await site.drop_from_cache(prefix)

    async def dropped() -> bool:
        return not await site.scalar("select count(*) from replica")

    await eventually(dropped)

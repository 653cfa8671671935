"""A running cache server on a fresh catalog, with what a door, a mover and an operator would do to it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from cacheserver.config import Config
from cacheserver.server import serve
from cacheserver.store import Buffer, Disk
from catalog import identity, namespace, puts, replicas
from catalog.database import Database
from catalog.model import Action, FileRecord, Grant, Principal
from catalog.signing import AdminClaims, BulkClaims, Claims, GetClaims, PutClaims, SigningKey, sign
from tests.store.media import two_libraries

ANN = Principal(token_id=1, owner="ann", groups=("exp",), grants=(Grant(action=Action.CREATE, prefix="/exp"),))
BOB = Principal(token_id=2, owner="bob", groups=("exp",), grants=(Grant(action=Action.MODIFY, prefix="/exp"),))
FOR_EVER = 4e9


class TracingDisk(Disk):
    """The real disk, with a record of every step that durability hangs on, and faults on demand."""

    def __init__(self, trace: list[str]) -> None:
        self.trace = trace
        self.fail: set[str] = set()
        self.free = 1 << 50

    def _step(self, name: str) -> None:
        self.trace.append(name)
        if name in self.fail:
            raise OSError(5, "Input/output error")

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> None:
        self._step("write")
        super().write(descriptor, buffers)

    def fsync(self, descriptor: int) -> None:
        self._step("fsync")
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def fsync_directory(self, path: Path) -> None:
        self._step("fsync directory")
        super().fsync_directory(path)

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)

    def sync(self) -> None:
        # Of the whole machine, and other tests write too.
        self._step("sync")

    def free_bytes(self, path: Path) -> int:
        return self.free


@dataclass
class Site:
    database: Database
    root: Path
    keys: list[SigningKey]
    trace: list[str] = field(default_factory=list)
    disk: TracingDisk | None = None
    url: str = ""
    http: aiohttp.ClientSession | None = None

    def signed(self, what: str, claims: Claims) -> str:
        return f"{self.url}/{what}?sig={sign(claims, self.keys)}"

    async def admit(self, path: str = "/exp/f", *, who: Principal = ANN, **changed: Any) -> PutClaims:
        wanted: dict[str, Any] = {
            "size": None,
            "digests": {},
            "if_none_match": False,
            "storage_class": None,
            "mode": 0o644,
            "mtime_ns": 7,
            **changed,
        }
        async with self.database.transaction() as connection:
            admission = await puts.admit(connection, who, tuple(path.strip("/").split("/")), **wanted)
        assert admission.claims is not None
        return admission.claims

    async def put(self, claims: PutClaims, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        assert self.http is not None
        async with self.http.put(self.signed("replica", claims), data=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def store(self, path: str, body: bytes) -> tuple[PutClaims, dict[str, Any]]:
        claims = await self.admit(path, size=len(body))
        status, answer = await self.put(claims, body)
        assert status == 201, answer
        return claims, answer

    def get_url(self, replica_id: int, body: bytes, **changed: Any) -> str:
        wanted: dict[str, Any] = {
            "replica_id": replica_id,
            "file_id": 1,
            "size": len(body),
            "adler32": f"{zlib.adler32(body):08x}",
            "name": "/exp/f",
            "expires_at": FOR_EVER,
            **changed,
        }
        return self.signed("replica", GetClaims(**wanted))

    async def get(self, url: str, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
        assert self.http is not None
        async with self.http.get(url, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers

    def bulk_url(self, direction: str, epoch: int = 1) -> str:
        return self.signed(f"bulk/{direction}", BulkClaims(cache_server="cache", epoch=epoch, expires_at=FOR_EVER))

    async def sweep(self) -> None:
        assert self.http is not None
        async with self.http.post(self.signed("sweep", AdminClaims(expires_at=FOR_EVER))) as answer:
            assert answer.status == 200, await answer.text()

    async def space(self) -> tuple[int, int]:
        async with self.database.connection() as connection:
            [server] = await replicas.servers(connection)
        return server.used_bytes, server.reserved_bytes

    async def file_at(self, path: str) -> FileRecord:
        async with self.database.connection() as connection:
            return await namespace.file_at(connection, tuple(path.strip("/").split("/")))

    def path_of(self, replica_id: int) -> Path:
        return self.root / replicas.path_in_root(replica_id)

    def files_below(self, name: str) -> list[Path]:
        return [path for path in (self.root / name).rglob("*") if path.is_file()]

    def config(self, **changed: Any) -> Config:
        wanted: dict[str, Any] = {
            "name": "cache",
            "database_url": self.database.url,
            "root": str(self.root),
            "capacity_bytes": 10**9,
            "free_bytes_min": 0,
            "sweep_seconds": 0.05,
            **changed,
        }
        return Config(**wanted)


async def make_site(database: Database, root: Path) -> Site:
    async with database.transaction() as connection:
        await two_libraries(connection)
        # That fixture's own cache server would be another disk.
        await connection.exec_driver_sql("delete from cache_server")
        await namespace.make_directory(connection, ("exp",), owner="ann", group="exp", mode=0o755, mtime_ns=0)
        keys = await identity.signing_keys(connection)
    trace: list[str] = []
    return Site(database=database, root=root, keys=keys, trace=trace, disk=TracingDisk(trace))


@asynccontextmanager
async def running(site: Site, *, orderly: bool = True, **changed: Any) -> AsyncIterator[Site]:
    """The site's cache server, until left. Not `orderly`: it stops as if it had been killed."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    server = asyncio.create_task(serve(site.config(**changed), ready=port.set_result, stop=stop, disk=site.disk))
    await asyncio.wait([port, server], return_when=asyncio.FIRST_COMPLETED)
    if not port.done():
        await server
    site.url = f"http://127.0.0.1:{await port}"
    try:
        async with aiohttp.ClientSession() as site.http:
            yield site
    finally:
        if orderly:
            stop.set()
        else:
            server.cancel()
        await asyncio.wait([server])
        if not server.cancelled() and (error := server.exception()) is not None:
            raise error

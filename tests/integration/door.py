"""A door over a fresh catalog, and a client that speaks to it; with a real cache server where a test wants bytes.

Not a test itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

import cacheserver.config
import cacheserver.server
from catalog import identity
from catalog.database import Database
from catalog.model import Action, Grant
from client.serving import listen
from tapeserver.door import DoorContext, make_app
from tapeserver.door.resolver import reconcile, resolve_round
from tests.catalog_world import ALL, USER, World


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of the problem document, which it must be."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), (self.status, self.body[:200])
        document = self.json
        assert document["status"] == self.status
        assert document["title"]
        assert document["detail"]
        return str(document["code"])


@dataclass
class Door:
    database: Database
    context: DoorContext
    url: str
    session: aiohttp.ClientSession
    #: of ann, who may do everything but administrate; and of op, who may
    ann: str = ""
    op: str = ""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "ann",
        json: Any = None,
        headers: Any = None,
        **keywords: Any,
    ) -> Answer:
        """`path` goes out as it is written. `token`: "ann", "op", a secret, or None."""
        sent = dict(headers or {})
        secret = {"ann": self.ann, "op": self.op}.get(token or "", token)
        if secret:
            sent["Authorization"] = f"Bearer {secret}"
        url = URL(self.url + path, encoded=True)
        async with self.session.request(
            method, url, json=json, headers=sent, allow_redirects=False, **keywords
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def raw(self, data: bytes, *, seconds: float = 5.0) -> bytes:
        """What the door answers to bytes, until it closes."""
        url = URL(self.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(data)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await reader.read()
            return b"(still open)"
        finally:
            writer.close()

    async def token(self, owner: str, *grants: tuple[str, str]) -> str:
        async with self.database.transaction() as connection:
            made = await identity.make_token(
                connection,
                label="test",
                owner=owner,
                groups=["users"],
                grants=[Grant(action=Action(action), prefix=prefix) for action, prefix in grants],
                lifetime_seconds=3600,
            )
        return made.secret

    async def in_catalog(self, work: Callable[[World], Awaitable[Any]]) -> Any:
        async with self.database.transaction() as connection:
            return await work(World(connection))

    async def sql(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        async with self.database.transaction() as connection:
            found = await World(connection).run(statement, **values)
            return [tuple(row) for row in found] if found.returns_rows else []

    async def resolve(self) -> None:
        progress: dict[int, int] = {}
        while await resolve_round(self.database, progress):
            pass
        await reconcile(self.database, 0)


@asynccontextmanager
async def open_door(database: Database) -> AsyncIterator[Door]:
    context = DoorContext(database=database, name="door1", site_name="test-site", idle_seconds_max=2.0)
    async with database.transaction() as connection:
        world = World(connection)
        await world.media()
        secrets = [
            await identity.make_token(
                connection, label=owner, owner=owner, groups=["users"], grants=grants, lifetime_seconds=3600
            )
            for owner, grants in (("ann", USER), ("op", ALL))
        ]
    listener = await listen(make_app(context))
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            url = f"http://127.0.0.1:{listener.port}"
            yield Door(database, context, url, session, ann=secrets[0].secret, op=secrets[1].secret)
    finally:
        await listener.close()


@asynccontextmanager
async def cache_server(database: Database, root: Path, *, capacity_bytes: int = 10**9) -> AsyncIterator[None]:
    """The real cache server, as `cache1`, in this process."""
    async with database.transaction() as connection:
        await World(connection).run("delete from cache_server where name = 'cache1'")
    config = cacheserver.config.Config(
        name="cache1",
        database_url=database.url,
        root=str(root),
        capacity_bytes=capacity_bytes,
        free_bytes_min=1,
        sweep_seconds=0.2,
        idle_seconds_max=2.0,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(cacheserver.server.serve(config, ready=lambda port: ready.set(), stop=stop))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiter.cancel()
        task.result()
    try:
        yield
    finally:
        stop.set()
        await task

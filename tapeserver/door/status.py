"""Does every part answer, now? Asks them all at once, once, and gives up on each after less than a second.

A fresh heartbeat alone does not say that a server answers: cache and job servers are asked themselves, movers by the
tape server that has them. The drives of other tape servers count by their heartbeats.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from catalog import cacheservers, reading
from catalog.errors import CatalogUnreachable
from client import operatormessages
from client.serving import json_response
from tapeserver.door.context import DoorContext, context_of
from tapeserver.door.relay import session_of

#: the two together stay below what `capstan status` waits
DATABASE_SECONDS_MAX = 0.5
PING_SECONDS_MAX = 0.5
_SILENT = {"ok": False, "why": "the catalog does not answer"}


async def status(request: web.Request) -> web.Response:
    """200 always; `ok` inside, for the whole and for each component."""
    context = context_of(request)
    # The reading goes on in a task of its own: a catalog that hangs must not keep the answer waiting.
    asked = asyncio.create_task(_catalog(context), name="status-catalog")
    done, _ = await asyncio.wait({asked}, timeout=DATABASE_SECONDS_MAX)
    try:
        if not done:
            asked.cancel()
            raise TimeoutError("it does not answer in time")
        found, oldest, caches, jobs = asked.result()
        database: dict[str, Any] = {"ok": True}
    except (CatalogUnreachable, TimeoutError) as error:
        found, oldest, caches, jobs = {"planner": _SILENT, "movers": _SILENT}, None, [], []
        database = {"ok": False, "why": str(error)}
    pings = await asyncio.gather(*(_ping(context, name, url) for name, url in [*caches, *jobs]))
    components = {
        "door": {"ok": True, "name": context.name},
        "database": database,
        "planner": found["planner"],
        "movers": _movers(context, found["movers"]),
        "cache": _together(pings[: len(caches)], "cache server", database["ok"]),
        "jobserver": _together(pings[len(caches) :], "job server", database["ok"]),
    }
    ok = all(component["ok"] for component in components.values())
    return json_response(operatormessages.Status(ok=ok, components=components, oldest_unsafe_seconds=oldest))


Asked = tuple[dict[str, Any], float | None, list[tuple[str, str]], list[tuple[str, str]]]


async def _catalog(context: DoorContext) -> Asked:
    """What it knows of the components, the oldest unsafe age, and (name, url) of cache servers and the job server."""
    async with context.database.connection() as connection:
        found = await reading.components(connection)
        oldest = await reading.oldest_unsafe_seconds(connection)
        caches = [(one.name, one.url) for one in await cacheservers.servers(connection) if one.state == "up"]
        jobs = [(one.name, one.url) for one in await reading.servers(connection, "jobserver")][:1]
    return found, oldest, caches, jobs


def _movers(context: DoorContext, known: dict[str, Any]) -> dict[str, Any]:
    drives = {**known.get("drives", {})}
    for drive, answers in context.movers().items():
        if drive in drives:
            drives[drive] = drives[drive] and answers
    missing = sorted(drive for drive, ok in drives.items() if not ok)
    if missing:
        return {"ok": False, "drives": drives, "why": f"no answer from {', '.join(missing)}"}
    return {**known, "drives": drives}


def _together(pings: list[dict[str, Any]], what: str, database_ok: bool) -> dict[str, Any]:
    if not database_ok:
        return _SILENT
    bad = [f"{ping['name']}: {ping['why']}" for ping in pings if not ping["ok"]]
    if not pings or bad:
        return {"ok": False, "why": "; ".join(bad) or f"no {what} is registered", "servers": pings}
    return {"ok": True, "servers": pings}


async def _ping(context: DoorContext, name: str, url: str) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=PING_SECONDS_MAX)
    try:
        async with session_of(context).get(f"{url.rstrip('/')}/healthz", timeout=timeout) as answer:
            if answer.status == 200:
                return {"ok": True, "name": name}
            return {"ok": False, "name": name, "why": f"it answers {answer.status}"}
    except TimeoutError:
        return {"ok": False, "name": name, "why": "it does not answer in time"}
    except aiohttp.ClientError as error:
        return {"ok": False, "name": name, "why": str(error)}

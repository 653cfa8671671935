"""What must hold of a site once the faults are over: first it comes to rest, then nothing is lost, doubled or leaked.

Reads the catalog, the disk and the libraries directly: what a user is told is checked by the test itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from catalog import queues
from catalog.database import Database
from tapeserver.library import open_library

POLL_SECONDS = 0.3
#: a put of the site's own is over, and told to the catalog, within so many looks at so long intervals
LOOKS, LOOK_SECONDS = 4, 1.0
#: what is still under way, by name
UNDER_WAY = {
    "recalls": "select count(*) from recall",
    "demand": "select count(*) from demand",
    "archives": "select count(*) from archive",
    "mounts": "select count(*) from mount",
    "long work on media": "select count(*) from maintenance where state in ('queued', 'running')",
    "submitted or started stage items": "select count(*) from stage_item where state in ('submitted', 'started')",
    "stage requests that have not ended": "select count(*) from stage_request where state <> 'ended'",
    "jobs that have not ended": "select count(*) from jobs.job where state not in ('done', 'failed', 'cancelled')",
    "ended jobs that are not cleared up": "select count(*) from jobs.job where not cleaned",
    "local jobs that have not ended": "select count(*) from jobs.local_job"
    " where state in ('held', 'queued', 'starting', 'running')",
    "replicas that are being evicted": "select count(*) from replica where state = 'evicting'",
    "reservations": "select count(*) from reservation",
    "files that are not safe": "select count(*) from file where state = 'live' and not file_is_safe(id)",
    "drives that are not attached": "select count(*) from drive where heartbeat_at is null"
    " or heartbeat_at < capstan_now() - interval '10 s'",
}
#: what must never be, by name
NEVER = {
    "replicas lost or quarantined": "select id, file, state, why from replica where state in ('lost', 'quarantined')",
    "volumes out of use": "select vid, state, reason from volume"
    " where state not in ('blank', 'active', 'full', 'closed', 'broken')",
    "drives out of use": "select name, state, reason from drive where state <> 'up'",
    "libraries that are not up": "select name, state, reason from library where state <> 'up'",
    "copies too many": "select file, copy_number, count(*) from present_copy group by 1, 2 having count(*) > 1",
    "pins of jobs that ended": "select * from pin where owner like 'job%'",
    "live tokens of jobs that ended": "select t.id, t.label from token t join jobs.job j on j.token_id = t.id"
    " where t.revoked_at is null and coalesce(t.expires_at, 'infinity') > capstan_now()",
    "space that is counted and not there": "select s.name, s.taken_bytes, coalesce(sum(r.size), 0) from cache_server s"
    " left join replica r on r.cache_server = s.name group by s.name"
    " having s.taken_bytes <> coalesce(sum(r.size), 0)",
    "space that is promised to nobody": "select id, cache_server, kind, bytes from reservation",
}


def database_url(data: Path) -> str:
    """As `capstan up` wrote it for its servers."""
    tree = json.loads((data / "run" / "configuration.json").read_text())
    url: str = tree["tapeserver"]["database_url"]
    return url


async def scalar(database: Database, statement: str) -> Any:
    async with database.connection() as connection:
        return await connection.scalar(sa.text(statement))


async def rows(database: Database, statement: str) -> list[tuple[Any, ...]]:
    async with database.connection() as connection:
        return [tuple(row) for row in await connection.execute(sa.text(statement))]


async def let_leases_run_out(database: Database) -> None:
    """As if the minutes had passed that a PUT whose client is gone may still come: its promise of space ends."""
    async with database.transaction() as connection:
        await connection.execute(sa.text("update reservation set expires_at = capstan_now() where kind = 'put'"))


async def rest(database: Database, *, seconds_max: float) -> None:
    """Wait until nothing is under way. Raises AssertionError that names what still is."""
    began = time.monotonic()
    while True:
        left = {name: count for name, query in UNDER_WAY.items() if (count := await scalar(database, query))}
        left |= {f"drives with a volume in {name}": held for name, held in (await _loaded(database)).items() if held}
        if not left:
            return
        if time.monotonic() - began > seconds_max:
            raise AssertionError(f"not at rest after {seconds_max:.0f} s: {left}\n" + await _evidence(database))
        await asyncio.sleep(POLL_SECONDS)


async def _loaded(database: Database) -> dict[str, int]:
    found = {}
    for name, spec in await rows(database, "select name, spec from library"):
        inventory = await asyncio.to_thread(open_library(spec).inventory)
        found[name] = sum(drive.volume is not None for drive in inventory.drives)
    return found


async def _evidence(database: Database) -> str:
    queries = [f"select * from {table} limit 8" for table in ("recall", "archive", "mount", "reservation", "candidate")]
    queries.append("select * from stage_item where state in ('submitted', 'started') limit 8")
    queries.append("select id, name, state, reason, waiting, cleaned from jobs.job where not cleaned limit 8")
    queries.append(
        "select f.id, f.node, f.size, f.storage_class, f.stored_path,"
        " (select json_agg(c) from copy c where c.file = f.id) as copies,"
        " (select json_agg(r) from replica r where r.file = f.id) as replicas"
        " from file f where f.state = 'live' and not file_is_safe(f.id) limit 8"
    )
    queries.append("select vid, state, reason from volume where state <> 'blank'")
    return "\n".join([f"{query}: {await rows(database, query)}" for query in queries])


async def mistakes(database: Database, cache_root: Path, *, forgotten_max: int) -> list[str]:
    """Everything that may not be in a site at rest, look after look: a site puts its journal whenever it is due, and
    for a moment such a file is on disk and not yet in the catalog."""
    for _ in range(LOOKS - 1):
        found = await _mistakes(database, cache_root, forgotten_max=forgotten_max)
        if not found:
            return []
        await asyncio.sleep(LOOK_SECONDS)
    return await _mistakes(database, cache_root, forgotten_max=forgotten_max)


async def _mistakes(database: Database, cache_root: Path, *, forgotten_max: int) -> list[str]:
    """What one look finds.

    A crash of the catalog may forget the reservation of a put that was admitted less than a second before (its commit
    does not wait for the disk). When the cache server is killed in that moment too, the bytes of that put, which was
    never acknowledged, are unknown to everybody and end in quarantine/: `forgotten_max` says how often that may be.
    """
    found = [f"{name}: {bad[:5]}" for name, query in NEVER.items() if (bad := await rows(database, query))]
    async with database.connection() as connection:
        if drift := await queues.drift(connection):
            found.append(f"counters that are not what is there: {drift}")
    if left := _files(cache_root / "incoming"):
        found.append(f"left in incoming/: {left[:5]}")
    if len(left := _files(cache_root / "quarantine")) > forgotten_max:
        found.append(f"left in quarantine/: {left[:5]}")
    on_disk = sum(path.stat().st_size for path in _files(cache_root / "replicas"))
    used = await scalar(database, "select sum(taken_bytes) from cache_server")
    if on_disk != used:
        found.append(f"{on_disk} bytes lie on disk, {used} are counted")
    known = {str(id) for (id,) in await rows(database, "select id from replica")}
    lying = {path.name for path in _files(cache_root / "replicas")}
    if known != lying:
        found.append(f"replicas without bytes: {sorted(known - lying)}, bytes without replica: {sorted(lying - known)}")
    return found


def _files(directory: Path) -> Sequence[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())

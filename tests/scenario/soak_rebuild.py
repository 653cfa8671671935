"""The end of a soak: the database is set aside, the catalog is made again from the tapes, and the two are compared.

Only the tapes and the journal are left to the rebuild. The namespace must be what it was, whatever faults there were
before: names, sizes, checksums, owners, times, classes, the recycle bin, and every copy at its place. Then the site is
started on what was rebuilt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from capstan.demo.site import Site
from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from catalog.postgresql_programs import MAINTENANCE_DATABASE, database_name, plain_connection, quoted
from tests.scenario.small_site import START_SECONDS_MAX, STOP_SECONDS_MAX

_TREE = (
    "with recursive tree(id, path) as (select id, '' collate \"C\" from node where parent is null"
    " union all select n.id, t.path || '/' || n.name from node n join tree t on n.parent = t.id)"
)
_FILE = "f.size, f.adler32, f.digests, f.owner, f.grp, f.mode, f.mtime_ns, f.storage_class, f.collocation"
#: what must be the same, by name; the first column tells which one it is. What is on no tape is not brought back.
SAME = {
    "files": f"{_TREE} select t.path, f.id, {_FILE} from tree t join file f on f.node = t.id"
    " where exists (select from present_copy c where c.file = f.id)",
    "directories": f"{_TREE} select t.path, d.owner, d.grp, d.mode, d.mtime_ns, d.storage_class"
    " from tree t join directory d on d.node = t.id where t.path <> ''",
}
#: what must be there; there may be more: a removal that no catalog knew of leaves what it removed in the bin, a repack
#: leaves what it has moved on the old volume as well, and a volume that was reclaimed has what it had until it is
#: labelled
THERE = {
    "volumes": "select vid, library, generation from volume where tape_files > 0",
    "the recycle bin": f"select f.id, f.deleted_path, f.deleted_by, {_FILE} from file f where f.state = 'deleted'"
    " and exists (select from present_copy c where c.file = f.id)",
    "copies": "select c.file || ' on ' || c.volume, c.generation, c.tape_file, c.first_block, c.byte_offset,"
    " c.copy_number from present_copy c join file f on f.id = c.file where f.state in ('live', 'deleted')",
}
KNOWN = "select id, state from file"
LABELS = "select vid, library, generation from volume"
Rows = dict[str, set[tuple[Any, ...]]]


def rebuilt(site: Site, libraries: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Stop the site, which is at rest; rebuild; compare; start it again. What is not the same, in words."""
    site.stop(timeout_seconds=STOP_SECONDS_MAX)
    told = site.json(["capstan", "db", "journal", "--now", "--data", str(site.data), "--json"])
    say(f"         journal: {told}")
    before = asyncio.run(_set_aside(site))
    words = [word for name in libraries for word in ("--library", name)]
    outcome = site.json(["capstan", "db", "rebuild", *words, "--data", str(site.data), "--json"])
    say(f"         rebuilt: {outcome}")
    after = asyncio.run(_read(site))
    site.start(timeout_seconds=START_SECONDS_MAX)
    return different(before, after) + [f"not brought back: {one}" for one in outcome["refused"]]


def different(before: Rows, after: Rows) -> list[str]:
    mistakes = []
    for name in SAME:
        mistakes += [f"rebuilt, {name}: was {one}" for one in _some(before[name] - after[name])]
        mistakes += [f"rebuilt, {name}: is {one}" for one in _some(after[name] - before[name])]
    for name in THERE:
        mistakes += [f"rebuilt, {name}: lacks {one}" for one in _some(before[name] - after[name])]
    mistakes += [f"rebuilt, volumes: is {one}" for one in _some(after["volumes"] - before["labels"])]
    states: dict[Any, Any] = dict(before["known"])
    mistakes += [
        f"rebuilt: file {id} was {states[id]} and is {state}"
        for id, state in sorted(after["known"])
        if id in states and state != states[id]
    ]
    return mistakes


def _some(rows: set[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=str)[:10]


async def _set_aside(site: Site) -> Rows:
    """What the catalog says; then its database gets another name, and an empty one takes its place."""
    postgres = EmbeddedPostgres(site.data)
    url = await postgres.start()
    try:
        found = await _read_from(url)
        name = database_name(url)
        async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
            await admin.execute(f"alter database {quoted(name)} rename to {quoted(f'aside_{secrets.token_hex(4)}')}")
            await admin.execute(f"create database {quoted(name)}")
    finally:
        await postgres.stop()
    return found


async def _read(site: Site) -> Rows:
    postgres = EmbeddedPostgres(site.data)
    url = await postgres.start()
    try:
        return await _read_from(url)
    finally:
        await postgres.stop()


async def _read_from(url: str) -> Rows:
    async with Database(url, connections_max=1) as database, database.connection() as connection:
        return {
            name: {tuple(map(_plain, row)) for row in await connection.execute(sa.text(statement))}
            for name, statement in {**SAME, **THERE, "known": KNOWN, "labels": LABELS}.items()
        }


def _plain(value: Any) -> Any:
    """Documents cannot be in a set."""
    return str(sorted(value.items())) if isinstance(value, dict) else value

"""A catalog goes on from a backup: the dump becomes a database, and the database begins a new life.

What the lost life did after the backup is on tapes, in caches and in clients' hands, so nothing that it may have given
out is given out again, nothing is written on a tape whose end was not found, and no replica is believed before it was
looked at. Starts and stops no server, and moves no tape; what is on tape beyond the backup is adopted by the sessions.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import backups, endings, events, identity, migrate
from catalog.errors import Refused
from catalog.lostfiles import LostLife, bring_back
from catalog.postgresql_programs import (
    MAINTENANCE_DATABASE,
    database_name,
    plain_connection,
    quoted,
    url_of,
)
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("restoring").items()}
WHO = "capstan db restore"
#: ids that grow with the files: a life of 2^28 files apart from any other life that began from the same backup
FILE_IDS_LEAP = 2**40
_FILE_IDS_STEP_BITS, _FILE_IDS_STEPS = 28, 2**20
FILE_IDS = frozenset({
    ("public", name)
    for name in ("node", "file", "copy", "reservation", "archive", "queue_delta", "event", "journal")
})  # fmt: skip
#: epochs, which have twelve digits on tape, and ids that people type
SMALL_LEAP = 10**6
#: file ids that may be drawn and not committed, or drawn while a dump begins
IDS_UNDER_WAY_MAX = 2**17
#: the server's name for a database is no longer
_NAME_BYTES_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLife:
    catalog_id: str
    incarnation: str
    #: mounts of the old life that were under way
    mounts_ended: int
    volumes: int
    replicas: int
    #: put after the backup, on no tape, and back by the journal's word
    files_back: int


async def restored_database(url: str, dump: Path, *, binaries: Path | None = None) -> str:
    """The dump in a new database beside the one of `url`, at this release's schema; its URL.

    It is dropped again when that fails. Raises Refused, Damaged (the sum beside the dump), ProgramFailed.
    """
    await backups.check_sum(dump)
    name = f"{database_name(url)}_new_{secrets.token_hex(4)}"[-_NAME_BYTES_MAX:]
    made = url_of(url, name)
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        try:
            await admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        except asyncpg.InsufficientPrivilegeError as error:
            raise Refused(why=f"this role may not make databases: {error}") from error
    try:
        await backups.load_dump(made, dump, binaries)
        await migrate.upgrade(made)
        async with plain_connection(made) as connection:
            await connection.execute("ANALYZE")
    except BaseException:
        await drop(made)
        raise
    return made


async def drop(url: str) -> None:
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        await admin.execute(f"DROP DATABASE IF EXISTS {quoted(database_name(url))} WITH (FORCE)")


async def check_place(url: str, *, replace: bool) -> None:
    """Raises Refused when the database of `url` holds anything (unless `replace`), or somebody is connected to it."""
    if not await _is_there(url):
        return
    name = database_name(url)
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        users = await admin.fetchval(
            "SELECT string_agg(DISTINCT application_name, ', ') FROM pg_stat_activity WHERE datname = $1", name
        )
    if users:
        raise Refused(why=f"database {name} is in use ({users}): stop every server first")
    if not replace and await _tables(url):
        raise Refused(why=f"database {name} is not empty; with --replace it is set aside under another name")


async def take_place(url: str, restored: str) -> str | None:
    """`restored` becomes the database of `url`, in one step; the name under which what was there is kept, if anything.

    Only what has no table at all is dropped. Raises Refused when somebody is connected to either.
    """
    name = database_name(url)
    aside: str | None = None
    if await _is_there(url) and not await _tables(url):
        await drop(url)
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        try:
            async with admin.transaction():
                if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
                    aside = f"{name[:30]}_before_{datetime.now(UTC):%Y%m%dT%H%M%S}_{secrets.token_hex(2)}"
                    await admin.execute(f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(aside)}")
                await admin.execute(f"ALTER DATABASE {quoted(database_name(restored))} RENAME TO {quoted(name)}")
        except asyncpg.ObjectInUseError as error:
            raise Refused(why=f"{error}: stop every server first") from error
    return aside


async def begin_new_life(
    connection: AsyncConnection,
    *,
    source: str,
    epoch_floor: int = 0,
    segment_floor: int = 0,
    lost: LostLife | None = None,
) -> NewLife:
    """Everything that must not go on as it was, in the caller's one transaction. `source`: the backup, for the record.

    `epoch_floor`: the highest epoch that any library reports; `segment_floor`: the highest number of a journal segment
    that was found outside; `lost`: what those behind the backup tell. Only for a database that nobody uses.
    """
    incarnation = secrets.token_hex(8)
    catalog_id = str(await connection.scalar(_SQL["new_incarnation"], {"incarnation": incarnation}))
    await connection.execute(_SQL["puts_under_way"], {"ids": IDS_UNDER_WAY_MAX})
    passed = lost.highest_file() if lost else 0
    await raise_identities(connection, epoch_floor=epoch_floor, segment_floor=segment_floor, passed_file=passed)
    ended = list((await connection.scalars(_SQL["live_mounts"])).all())
    for epoch in ended:
        await endings.end_mount(connection, epoch, "the catalog was restored from a backup")
    await endings.requeue_orphans(connection)
    volumes = (await connection.execute(_SQL["volumes_unverified"])).rowcount
    await connection.execute(_SQL["reservations_gone"])
    replicas = (await connection.execute(_SQL["replicas_doubted"])).rowcount
    files_back = await bring_back(connection, lost) if lost else 0
    for name in ("count_space", "servers_gone", "drives_detached", "candidates_gone", "events_gone"):
        await connection.execute(_SQL[name])
    await connection.execute(_SQL["leases_over"], {"leap": SMALL_LEAP})
    for name in ("segments_unsafe_gone", "segments_end", "journal_again"):
        await connection.execute(_SQL[name])
    life = NewLife(
        catalog_id=catalog_id, incarnation=incarnation, mounts_ended=len(ended), volumes=volumes, replicas=replicas,
        files_back=files_back,
    )  # fmt: skip
    await _tell(connection, life, source)
    return life


async def known_segments(connection: AsyncConnection) -> tuple[str, int]:
    """The catalog's id, and the number up to which the journal's segments tell nothing that it does not know."""
    row = (await connection.execute(_SQL["known_segments"])).one()
    return row.id, row.number


async def raise_identities(
    connection: AsyncConnection, *, epoch_floor: int = 0, segment_floor: int = 0, passed_file: int = 0
) -> None:
    """Every identity leaps beyond what a life that is lost can have used; also for a catalog rebuilt from tapes.

    Two lives that began from the same backup leap differently, so that their files do not share ids either. One that
    is known to have given the id `passed_file` may have leapt further than this one: files leap from there.
    """
    far = FILE_IDS_LEAP + (secrets.randbelow(_FILE_IDS_STEPS) << _FILE_IDS_STEP_BITS)
    near = SMALL_LEAP + secrets.randbelow(SMALL_LEAP)
    floors = {"mount": epoch_floor + SMALL_LEAP, "journal_segment": segment_floor + SMALL_LEAP}
    for row in (await connection.execute(_SQL["sequences"])).all():
        leap = far if (row.schema, row.table) in FILE_IDS and row.type == "bigint" else near
        floor = floors.get(row.table, 0) if row.schema == "public" else 0
        if (row.schema, row.table) == ("public", "file"):
            await connection.execute(_SQL["life_lost"], {"sequence": row.sequence, "leap": leap, "passed": passed_file})
            floor = passed_file + leap if passed_file else 0
        await connection.execute(_SQL["raise_sequence"], {"sequence": row.sequence, "leap": leap, "floor": floor})


async def _tell(connection: AsyncConnection, life: NewLife, source: str) -> None:
    detail = {
        "incarnation": life.incarnation, "source": source, "volumes": life.volumes, "replicas": life.replicas,
        "files_back": life.files_back,
    }  # fmt: skip
    reason = f"restored from {source}: what was done after it is found on the tapes, or lost"
    await identity.audit(
        connection, who=WHO, action="catalog.restored", object=life.catalog_id, reason=reason, detail=detail
    )
    await events.emit(connection, "catalog.restored", life.catalog_id, detail)


async def _is_there(url: str) -> bool:
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        wanted = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
        return bool(await admin.fetchval(wanted, database_name(url)))


async def _tables(url: str) -> int:
    async with plain_connection(url) as connection:
        system = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        return int(await connection.fetchval(system) or 0)

"""Backups of the catalog: made while it works, all of one moment, read back before they count.

    DIRECTORY/capstan-CATALOG-TIME.dump          pg_dump's custom format, for pg_restore of any later release
    DIRECTORY/capstan-CATALOG-TIME.dump.sha256   as sha256sum writes it

A backup counts (verified_at) once it was restored into a scratch database beside the catalog and has there as many rows
in every table as the moment it was made of; where no scratch database may be made, once all of it was read. How a
catalog goes on from one is catalog.restoring's.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.database import Database
from catalog.durable import sync_path
from catalog.errors import Damaged, Refused
from catalog.postgresql_programs import (
    MAINTENANCE_DATABASE,
    database_name,
    plain_connection,
    program,
    quoted,
    run,
    url_of,
)
from catalog.sql import load
from catalog.units import show_bytes

_SQL = {name: sa.text(statement) for name, statement in load("backups").items()}
#: advisory lock, held on the database for as long as a backup is made of it
_LOCK = 0x0CA9_57A4_0002
_SCRATCH_PREFIX = "capstan_verify_"
#: of the database's size, when no former backup tells
_SIZE_GUESS = 0.5
_FORMER_MARGIN = 1.5
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    id: int
    path: Path
    bytes: int
    sha256: str
    #: every change that is older is in it
    began_at: datetime
    #: "restored" into a scratch database, or only "read"
    how: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The newest backup that may be relied upon."""

    path: str
    began_at: datetime
    age_seconds: float


async def make_backup(database: Database, directory: Path, *, keep: int, binaries: Path | None = None) -> Backup:
    """Dump, write durably, read back, and remove what is older than the `keep` newest.

    Raises Refused (another one is being made; no room; a program fails), Damaged (it does not read back), OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with plain_connection(database.url) as raw:
        if not await raw.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            raise Refused(why="another backup of this catalog is being made")
        await _check_room(database, raw, directory)
        async with database.connection() as connection:
            began_at: datetime = (await connection.execute(_SQL["began"])).scalar_one()
            catalog_id = await connection.scalar(sa.text("SELECT id FROM catalog_identity"))
            taken = set((await connection.scalars(_SQL["paths"])).all())
        for left in directory.glob(f"capstan-{catalog_id}-*.dump.new"):
            # Of a run that was killed; the lock says that no other is under way.
            left.unlink(missing_ok=True)
        path = _free_name(directory, str(catalog_id), began_at, taken)
        unfinished = path.with_name(path.name + ".new")
        try:
            counts = await _dump(database.url, raw, unfinished, binaries)
            sha256 = await asyncio.to_thread(_make_durable, unfinished, path)
            # Before it has its name: a file that no row tells of would never be removed, a row without a file will.
            async with database.transaction() as connection:
                values = {"began_at": began_at, "path": str(path), "bytes": unfinished.stat().st_size, "sha256": sha256}
                id = int(await connection.scalar(_SQL["record"], values) or 0)
            await asyncio.to_thread(_publish, unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        how = await verify(database.url, path, counts, binaries)
        async with database.transaction() as connection:
            await connection.execute(_SQL["verified"], {"id": id})
        await _remove_surplus(database, keep)
    return Backup(
        id=id, path=path, bytes=path.stat().st_size, sha256=sha256, began_at=began_at, how=how,
        rows=sum(counts.values()),
    )  # fmt: skip


async def verify(url: str, path: Path, counts: Mapping[str, int], binaries: Path | None = None) -> str:
    """ "restored" when the dump has exactly these rows in a scratch database, "read" when none may be made.

    Raises Damaged, ProgramFailed.
    """
    async with plain_connection(url, MAINTENANCE_DATABASE) as admin:
        oid = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", database_name(url))
        prefix = f"{_SCRATCH_PREFIX}{oid}_"
        for left in await admin.fetch("SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix):
            # Of a run that was killed; the lock says that no other is under way.
            await admin.execute(f"DROP DATABASE {quoted(left['datname'])} WITH (FORCE)")
        scratch = prefix + secrets.token_hex(4)
        try:
            await admin.execute(f"CREATE DATABASE {quoted(scratch)} TEMPLATE template0")
        except asyncpg.InsufficientPrivilegeError:
            await read_through(path, binaries)
            return "read"
        try:
            await load_dump(url_of(url, scratch), path, binaries)
            async with plain_connection(url, scratch) as copy:
                found = await row_counts(copy)
        finally:
            await asyncio.shield(admin.execute(f"DROP DATABASE IF EXISTS {quoted(scratch)} WITH (FORCE)"))
    if found != dict(counts):
        wrong = sorted(name for name in {*found, *counts} if found.get(name) != counts.get(name))
        raise Damaged(what=str(path), why=f"it has another number of rows than the catalog had in {', '.join(wrong)}")
    return "restored"


async def load_dump(url: str, path: Path, binaries: Path | None = None) -> None:
    """Restore into the empty database of `url`. Raises ProgramFailed."""
    words = ["--exit-on-error", "--no-owner", "--no-acl", f"--dbname={database_name(url)}", str(path)]
    await run(url, program("pg_restore", binaries), *words, bulk=True)


async def read_through(path: Path, binaries: Path | None = None) -> None:
    """Every byte of a dump is read and unpacked. Raises ProgramFailed."""
    await run("postgresql://", program("pg_restore", binaries), "--file=/dev/null", str(path))


async def check_sum(path: Path) -> None:
    """Compare a dump with the sum beside it, where there is one. Raises Damaged, Refused when the dump is not there."""
    if not path.is_file():
        raise Refused(why=f"there is no file {path}")
    beside = path.with_name(path.name + ".sha256")
    if not beside.exists():
        return
    wanted = beside.read_text().split()[0]
    if (found := await asyncio.to_thread(_sha256, path)) != wanted:
        raise Damaged(what=str(path), why=f"its sha256 is {found}, and {beside.name} says {wanted}")


async def row_counts(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    """schema.table -> rows, of every table that holds rows itself; the schema's revision is among them as a name."""
    tables = await connection.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence = 'p'"
        " AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
    )
    counts = {row["name"]: int(await connection.fetchval(f"SELECT count(*) FROM {row['name']}")) for row in tables}  # noqa: S608  # quoted by the server
    revision = await connection.fetchval("SELECT version_num FROM alembic_version")
    return {**counts, f"revision {revision}": 1}


async def newest_verified(connection: AsyncConnection) -> Verified | None:
    row = (await connection.execute(_SQL["newest_verified"])).one_or_none()
    return None if row is None else Verified(path=row.path, began_at=row.began_at, age_seconds=float(row.age_seconds))


async def is_due(connection: AsyncConnection, *, hours: float) -> bool:
    """Whether the next one should be made: the first as soon as anything is on tape."""
    newest = await newest_verified(connection)
    if newest is None:
        return bool(await connection.scalar(_SQL["anything_on_tape"]))
    # One from the future was made while the clock was ahead: it says nothing of how long ago that was.
    return not 0 <= newest.age_seconds < hours * 3600


async def _dump(
    url: str, raw: asyncpg.Connection[asyncpg.Record], target: Path, binaries: Path | None
) -> dict[str, int]:
    """The dump and its counts, both of one snapshot, which stays as long as the transaction that counts."""
    target.unlink(missing_ok=True)
    async with raw.transaction(isolation="repeatable_read", readonly=True):
        snapshot = await raw.fetchval("SELECT pg_export_snapshot()")
        words = ["--format=custom", "--compress=gzip:1", f"--snapshot={snapshot}", f"--file={target}"]
        dumping = asyncio.ensure_future(run(url, program("pg_dump", binaries), *words))
        try:
            counts = await row_counts(raw)
            await dumping
        finally:
            dumping.cancel()
            await asyncio.gather(dumping, return_exceptions=True)
    return counts


async def _check_room(database: Database, raw: asyncpg.Connection[asyncpg.Record], directory: Path) -> None:
    former = await raw.fetchval("SELECT bytes FROM catalog_backup ORDER BY id DESC LIMIT 1")
    size = await raw.fetchval("SELECT pg_database_size(current_database())")
    wanted = int(former * _FORMER_MARGIN if former else size * _SIZE_GUESS)
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise Refused(why=f"{directory} has {show_bytes(free)} free, and a backup may take {show_bytes(wanted)}")


async def _remove_surplus(database: Database, keep: int) -> None:
    async with database.transaction() as connection:
        for row in (await connection.execute(_SQL["surplus"], {"keep": max(1, keep)})).all():
            for name in (row.path, row.path + ".sha256"):
                Path(name).unlink(missing_ok=True)
            await connection.execute(_SQL["removed"], {"id": row.id})


def _free_name(directory: Path, catalog_id: str, at: datetime, taken: Collection[str]) -> Path:
    """Neither on the disk nor in a row: who removes what a row tells of must not remove another one's file."""
    stem = f"capstan-{catalog_id}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while (path := directory / f"{stem}{'' if number == 1 else f'-{number}'}.dump").exists() or str(path) in taken:
        number += 1
    return path


def _make_durable(unfinished: Path, path: Path) -> str:
    """On the disk, with the sum beside the name that it will have; the sum, of what was read back."""
    sync_path(unfinished)
    sha256 = _sha256(unfinished)
    unfinished.chmod(0o600)
    beside = path.with_name(path.name + ".sha256")
    beside.write_text(f"{sha256}  {path.name}\n")
    sync_path(beside)
    return sha256


def _publish(unfinished: Path, path: Path) -> None:
    unfinished.rename(path)
    sync_path(path.parent)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

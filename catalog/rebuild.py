"""A rebuild of the catalog from the tapes, the part that goes volume by volume: what each scan tells is staged.

Staged rows lie in a schema of their own, so a rebuild that was broken off goes on where it was; a volume that was not
read to its end is read again. What becomes of it all in the end is in `rebuilding`; how tapes are read is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.database import copy_rows
from catalog.errors import Refused
from catalog.indexentry import IndexDead, IndexEntry
from catalog.journalformat import Entry, Head
from catalog.sql import load

SQL = {name: sa.text(statement) for name, statement in load("rebuild").items()}
SCHEMA = "rebuild"
_json = msgspec.json.Encoder()
_STAGE = (
    "stage_schema", "stage_volume", "stage_copy", "stage_dead", "stage_problem", "stage_segment", "stage_journal"
)  # fmt: skip
#: a tape server that was silent for so long does not run
HEARTBEAT_SECONDS_MAX = 60.0
_COPY_COLUMNS = (
    "volume", "generation", "told_by", "told_epoch", "tape_file", "first_block", "byte_offset", "file", "copy_number",
    "size", "adler32", "digests", "path", "mtime_ns", "mode", "owner", "grp", "storage_class", "collocation", "node",
    "parent", "created", "epoch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What a scan found of a volume. `state`: scanned, blank, foreign (somebody else's) or failed, with `why`.

    `files` -1: the copies that are staged of it.
    """

    vid: str
    state: str
    why: str = ""
    catalog_id: str | None = None
    generation: int = 0
    block_size: int = 262_144
    pool: str = ""
    tape_files: int = 0
    end_block: int = 0
    index_block: int = 0
    indexed_tape_files: int = 0
    is_full: bool = False
    epoch: int = 0
    capacity_bytes: int | None = None
    written_bytes: int | None = None
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a rebuild is: volumes in all, those that were looked at, copies staged of the latter."""

    volumes: int
    done: int
    files: int


async def begin(connection: AsyncConnection) -> bool:
    """Make the staging tables, or go on with those of a rebuild that was broken off: True then.

    Raises Refused when the catalog is not empty, or a tape server runs.
    """
    names = list((await connection.scalars(SQL["live_servers"], {"seconds": HEARTBEAT_SECONDS_MAX})).all())
    if names:
        raise Refused(why=f"tape server {', '.join(names)} runs; stop all servers before a rebuild")
    await refuse_unless_empty(connection)
    if await connection.scalar(SQL["is_begun"]):
        for name in ("forget_begun", "forget_begun_dead", "forget_begun_problems", "try_again"):
            await connection.execute(SQL[name])
        return True
    for name in _STAGE:
        await connection.execute(SQL[name])
    return False


async def refuse_unless_empty(connection: AsyncConnection) -> None:
    """Raises Refused."""
    found = (await connection.execute(SQL["what_is_there"])).mappings().one()
    there = [what for what, count in found.items() if count]
    if there:
        raise Refused(why=f"the catalog is not empty (it has {', '.join(there)}); a rebuild needs a new database")


async def add_volumes(connection: AsyncConnection, library: str, vids: Collection[str]) -> None:
    """The volumes to look at; those that are known stay as they are."""
    await connection.execute(SQL["add_volumes"], {"library": library, "vids": sorted(vids)})


async def to_scan(connection: AsyncConnection, library: str) -> list[str]:
    """The volumes of a library that were not looked at yet."""
    query = sa.text("SELECT vid FROM rebuild.volume WHERE library = :library AND state = 'found' ORDER BY vid")
    return list((await connection.scalars(query, {"library": library})).all())


async def standing(connection: AsyncConnection) -> Standing:
    query = sa.text(
        "SELECT count(*) AS volumes, count(*) FILTER (WHERE state NOT IN ('found', 'scanning')) AS done,"
        " coalesce(sum(files), 0)::bigint AS files FROM rebuild.volume"
    )
    return Standing(**(await connection.execute(query)).mappings().one())


async def failed(connection: AsyncConnection) -> list[tuple[str, str]]:
    """(volume, why) of those that could not be read."""
    query = sa.text("SELECT vid, why FROM rebuild.volume WHERE state IN ('failed', 'found', 'scanning') ORDER BY vid")
    return [(row.vid, row.why or "no drive took it") for row in await connection.execute(query)]


async def start_volume(connection: AsyncConnection, vid: str, *, again: bool = False) -> None:
    """From now on rows of it come. `again`: there may be some of an earlier attempt, which are forgotten."""
    for table in ("copy", "dead", "problem") if again else ():
        statement = f"DELETE FROM rebuild.{table} WHERE volume = :vid"  # noqa: S608 - names of our own
        await connection.execute(sa.text(statement), {"vid": vid})
    await connection.execute(sa.text("UPDATE rebuild.volume SET state = 'scanning' WHERE vid = :vid"), {"vid": vid})


async def add_copies(
    connection: AsyncConnection, vid: str, generation: int, *, told_by: int, epoch: int, entries: Iterable[IndexEntry]
) -> int:
    """COPY them into the stage; how many."""
    rows = (
        (
            vid, generation, told_by, epoch, one.tape_file, one.first_block, one.offset, one.file_id, one.copy_number,
            one.size, one.adler32, _text(one.digests), one.path, one.mtime_ns, one.mode, one.owner, one.group,
            one.storage_class, one.collocation, one.node, one.parent, one.created, one.epoch,
        )
        for one in entries
    )  # fmt: skip
    return await copy_rows(connection, "copy", _COPY_COLUMNS, rows, schema=SCHEMA)


async def add_dead(
    connection: AsyncConnection, vid: str, generation: int, *, told_by: int, extents: Iterable[IndexDead]
) -> None:
    rows = ((vid, generation, told_by, one.tape_file, one.first_block, one.blocks, one.why) for one in extents)
    columns = ("volume", "generation", "told_by", "tape_file", "first_block", "blocks", "why")
    await copy_rows(connection, "dead", columns, rows, schema=SCHEMA)


async def withdraw(connection: AsyncConnection, vid: str, told_by: int) -> int:
    """Forget what this index told of the volume; how many copies."""
    await connection.execute(SQL["withdraw_dead"], {"volume": vid, "told_by": told_by})
    return (await connection.execute(SQL["withdraw_copies"], {"volume": vid, "told_by": told_by})).rowcount


async def add_problem(connection: AsyncConnection, vid: str, text: str) -> None:
    await connection.execute(
        sa.text("INSERT INTO rebuild.problem VALUES (:volume, :what)"), {"volume": vid, "what": text[:1000]}
    )


async def end_volume(connection: AsyncConnection, volume: Volume) -> None:
    """The volume was looked at to its end; it is not looked at again unless it failed."""
    values = {name: getattr(volume, name) for name in Volume.__dataclass_fields__}
    sets = ", ".join(f"{name} = :{name}" for name in values if name not in ("vid", "files"))
    # Counted, not summed up on the way: an index may have been withdrawn.
    count = "(SELECT count(*) FROM rebuild.copy WHERE volume = :vid)" if volume.files < 0 else ":files"
    values["files"] = max(volume.files, 0)
    statement = f"UPDATE rebuild.volume SET {sets}, files = {count} WHERE vid = :vid"  # noqa: S608 - names of our own
    await connection.execute(sa.text(statement), values)


async def add_segment(
    connection: AsyncConnection, head: Head, entries: Sequence[Entry], *, bytes: int, adler32: str, path: str
) -> bool:
    """Stage a segment of the journal; False when it is there already.

    Of one number the fuller one is kept, for each catalog.
    """
    # Copies of one segment lie in several libraries, which are read side by side.
    await connection.execute(sa.text("LOCK TABLE rebuild.segment IN SHARE ROW EXCLUSIVE MODE"))
    catalog_id = head.catalog_id.lower()
    which = {"catalog_id": catalog_id, "number": head.number}
    statement = "SELECT last_seq FROM rebuild.segment WHERE catalog_id = :catalog_id AND number = :number"
    known = await connection.scalar(sa.text(statement), which)
    if known is not None and known >= head.last_seq:
        return False
    for table, column in (("journal", "segment"), ("segment", "number")):
        await connection.execute(
            sa.text(f"DELETE FROM rebuild.{table} WHERE catalog_id = :catalog_id AND {column} = :number"),  # noqa: S608 - names of our own
            which,
        )
    row = (
        head.number, catalog_id, head.incarnation, head.previous, head.first_seq, head.last_seq, len(entries),
        bytes, adler32, path,
    )  # fmt: skip
    columns = (
        "number", "catalog_id", "incarnation", "previous", "first_seq", "last_seq", "entries", "bytes", "adler32",
        "path",
    )  # fmt: skip
    await copy_rows(connection, "segment", columns, [row], schema=SCHEMA)
    rows = ((catalog_id, head.number, one.seq, one.kind, one.id, one.removed, bytes_text(one.entry)) for one in entries)
    fields = ("catalog_id", "segment", "seq", "kind", "id", "removed", "entry")
    await copy_rows(connection, "journal", fields, rows, schema=SCHEMA)
    return True


async def raise_epochs(connection: AsyncConnection, seen: int) -> None:
    """Epochs drawn from now on are above `seen`."""
    await connection.execute(SQL["raise_epochs"], {"seen": seen})


def bytes_text(raw: bytes | memoryview) -> str:
    return str(raw, "utf-8")


def _text(digests: dict[str, str]) -> str:
    return _json.encode(digests).decode() if digests else "{}"

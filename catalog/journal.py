"""The journal of the namespace on its way out of the database: what is not written yet, and which segment holds what.

Rows come from triggers, in the transaction that changes a node, directory, file or the replica of a put, or says what a
drive or volume is. They are read in an order into which nothing comes later, become segments (catalog.journalformat),
and go once their segment is safe on tape. Writes no file: that is tapeserver.journaling's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import namespace
from catalog.errors import NotFound
from catalog.journalformat import Entry, Head, segment_name
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("journal").items()}
#: where segments lie in the namespace, and their storage class
DIRECTORY = (".capstan", "journal")
STORAGE_CLASS = "system"
#: in a single delete
DELETE_ROWS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """How far the journal was read."""

    transaction: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    number: int
    first_seq: int
    last_seq: int
    entries: int
    until: Position
    bytes: int
    adler32: str
    path: str
    #: in the namespace
    file_id: int | None
    #: it grows no more
    closed: bool
    #: since its first entry was written out
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Changes in order of seq, and how far they go."""

    entries: list[Entry]
    until: Position
    #: whether somebody else than the journal itself changed something
    is_news: bool


async def lock(connection: AsyncConnection) -> None:
    """Until the transaction ends nobody else writes a segment."""
    await connection.execute(_SQL["lock"])


async def draw_number(connection: AsyncConnection) -> int:
    """For a new segment."""
    return int(await connection.scalar(_SQL["draw_number"]) or 0)


async def last_segment(connection: AsyncConnection, *, below: int | None = None) -> Segment | None:
    """The newest one, or the one before number `below`."""
    row = (await connection.execute(_SQL["last_segment"], {"below": below})).one_or_none()
    return None if row is None else _segment(row)


async def unwritten(
    connection: AsyncConnection,
    after: Position,
    limit: int,
    *,
    known: Position | None = None,
    until: Position | None = None,
) -> Page:
    """Final changes behind `after`, at most `limit`, and none behind `until`; what lies behind `known` may be news.

    Asked again, the same changes come first again, until rows are deleted.
    """
    bound = {
        "transaction": after.transaction,
        "seq": after.seq,
        "until_transaction": until.transaction if until else None,
        "until_seq": until.seq if until else None,
    }
    rows = (await connection.execute(_SQL["entries"], {**bound, "limit": limit})).all()
    entries = [
        Entry(seq=row.seq, kind=row.kind, id=row.id, removed=row.removed, entry=msgspec.Raw(row.entry.encode()))
        for row in rows
    ]
    own = await _own_directories(connection)
    seen = known or after
    later = [
        entry
        for row, entry in zip(rows, entries, strict=True)
        if Position(transaction=row.transaction, seq=row.seq) > seen
    ]
    return Page(
        entries=sorted(entries, key=lambda one: one.seq),
        until=Position(transaction=rows[-1].transaction, seq=rows[-1].seq) if rows else after,
        is_news=any(_is_news(entry, own) for entry in later),
    )


async def head_of(connection: AsyncConnection, number: int, previous: Segment | None, entries: Sequence[Entry]) -> Head:
    row = (await connection.execute(sa.text("SELECT id, incarnation FROM catalog_identity"))).one()
    return Head(
        catalog_id=row.id,
        incarnation=row.incarnation,
        number=number,
        previous=previous.number if previous else 0,
        first_seq=entries[0].seq,
        last_seq=entries[-1].seq,
    )


async def record(
    connection: AsyncConnection, head: Head, page: Page, *, bytes: int, adler32: str, path: str, closed: bool
) -> None:
    """The segment is on the disk with these bytes; the caller holds `lock`. A closed one is never changed."""
    values: dict[str, Any] = {
        "number": head.number,
        "first_seq": head.first_seq,
        "last_seq": head.last_seq,
        "entries": len(page.entries),
        "until_transaction": page.until.transaction,
        "until_seq": page.until.seq,
        "bytes": bytes,
        "adler32": adler32,
        "path": path,
        "closed": closed,
    }
    await connection.execute(_SQL["record"], values)


async def close(connection: AsyncConnection, number: int) -> None:
    await connection.execute(_SQL["close"], {"number": number})


async def unarchived(connection: AsyncConnection, limit: int) -> list[Segment]:
    """Closed segments that are no files of the namespace yet."""
    return [_segment(row) for row in await connection.execute(_SQL["unarchived"], {"limit": limit})]


async def archived(connection: AsyncConnection, number: int) -> bool:
    """Note which file of the namespace the segment is; False when there is none."""
    try:
        record = await namespace.file_at(connection, (*DIRECTORY, segment_name(number)))
    except NotFound:
        return False
    await connection.execute(_SQL["archived"], {"number": number, "file": record.file_id})
    return True


async def has_storage_class(connection: AsyncConnection) -> bool:
    return bool(await connection.scalar(_SQL["has_storage_class"], {"name": STORAGE_CLASS}))


async def spent(connection: AsyncConnection) -> Segment | None:
    """The last segment that is, with all before it, safe on tape, while the rows of it are still here."""
    oldest = (await connection.execute(_SQL["oldest_row"])).one_or_none()
    if oldest is None:
        return None
    first = await connection.scalar(_SQL["holding"], {"transaction": oldest.transaction, "seq": oldest.seq})
    row = (await connection.execute(_SQL["spent"], {"from": first})).one_or_none()
    if row is None:
        return None
    until = Position(transaction=row.until_transaction, seq=row.until_seq)
    if until < Position(transaction=oldest.transaction, seq=oldest.seq):
        return None
    return await last_segment(connection, below=row.number + 1)


async def delete_rows(connection: AsyncConnection, until: Position) -> int:
    """Delete a chunk of the rows up to `until`; how many. Fewer than DELETE_ROWS_MAX: it is done."""
    values = {"transaction": until.transaction, "seq": until.seq, "limit": DELETE_ROWS_MAX}
    return (await connection.execute(_SQL["delete_rows"], values)).rowcount


async def _own_directories(connection: AsyncConnection) -> frozenset[int]:
    first, second = DIRECTORY
    rows = await connection.execute(_SQL["own_directories"], {"first": first, "second": second})
    return frozenset(rows.scalars())


def _is_news(entry: Entry, own: Collection[int]) -> bool:
    """Segments are files too: putting one must not be a reason to write the next."""
    fields = entry.fields()
    if entry.kind == "replica":
        # It comes with the news of its file; and a segment has one too.
        return False
    if entry.kind == "file":
        return fields.get("storage_class") != STORAGE_CLASS
    return entry.id not in own and fields.get("parent") not in own


def _segment(row: sa.Row[Any]) -> Segment:
    return Segment(
        number=row.number,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        entries=row.entries,
        until=Position(transaction=int(row.until_transaction), seq=row.until_seq),
        bytes=row.bytes,
        adler32=row.adler32,
        path=row.path,
        file_id=row.file,
        closed=row.closed,
        age_seconds=float(row.age_seconds),
    )

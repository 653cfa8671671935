"""Brings the journal of the namespace out of the database: to a directory every minute, to tape every hour.

    DIRECTORY/NNNNNNNNNN.jsonl.gz             the newest one grows, written anew each time, until it is old or large
    /.capstan/journal/NNNNNNNNNN.jsonl.gz     the same bytes once it is closed, a file like others, archived like others

Each step finds out for itself what is done, so a crash anywhere is harmless: bytes follow from the rows, and rows stay
until their segment is safe on tape. What a segment looks like is catalog.journalformat's.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity, journal, namespace, puts, replicas
from catalog.database import CACHE, PLANNER, Database
from catalog.errors import Damaged, NoSpace, Unavailable
from catalog.journal import DELETE_ROWS_MAX, DIRECTORY, STORAGE_CLASS, Page, Position, Segment
from catalog.journalformat import Entry, Head, encode_segment, segment_name
from catalog.model import Action, Grant, Principal
from catalog.signing import PutClaims, sign
from tapeserver.config import Config
from tapeserver.door.relay import make_session
from tapeserver.leasedrounds import rounds_under_lease
from tapeserver.library.storage import replace_file

log = structlog.get_logger(__name__)

LEASE = "journal"
#: closed segments that are archived in one round
ARCHIVED_MAX = 100
IDLE_SECONDS_MAX = 30.0
#: may create below its own directory, and overwrite nothing there
SYSTEM = Principal(
    token_id=0, owner="capstan", groups=("capstan",), grants=(Grant(action=Action.CREATE, prefix="/.capstan"),)
)


class MissingSegment(Damaged):
    """Segment {number} of the journal cannot be put on tape: {why}."""

    code = "missing_segment"


async def journal_forever(database: Database, config: Config, closing: asyncio.Event) -> None:
    """Every tape server runs this, and the one with the lease works. Without `journal_dir` nobody does."""
    if not config.journal_dir:
        log.warning("no journal is kept outside the database: journal_dir is not set")
        return
    directory = Path(config.journal_dir)
    async with make_session(IDLE_SECONDS_MAX) as session:

        async def work() -> None:
            while (written := await write_segment(database, directory, config)) is not None and written.closed:
                if closing.is_set():
                    return
            await archive_segments(database, directory, session)
            await trim(database)

        await rounds_under_lease(
            database, LEASE, config.name, work,
            lease_seconds=config.lease_seconds, round_seconds=config.journal_seconds, closing=closing,
        )  # fmt: skip


async def write_segment(database: Database, directory: Path, config: Config, *, now: bool = False) -> Segment | None:
    """Write what is new into the segment that grows, or into a new one; None when nothing is new and none is to close.

    It is closed when it is full or old, or `now`; the caller calls again then, for there may be more. Raises OSError.
    """
    async with database.transaction() as connection:
        await journal.lock(connection)
        last = await journal.last_segment(connection)
        growing = last if last is not None and not last.closed else None
        before = await journal.last_segment(connection, below=growing.number) if growing else last
        start = before.until if before else Position()
        known = growing.until if growing else start
        page = await journal.unwritten(connection, start, config.journal_entries_max, known=known)
        closing = now or len(page.entries) == config.journal_entries_max
        # One that is younger than nothing was begun while the clock was ahead.
        closing = closing or (growing is not None and not 0 <= growing.age_seconds < config.journal_archive_seconds)
        if not page.is_news:
            if growing is None or not closing:
                return None
            page = await journal.unwritten(connection, start, config.journal_entries_max, until=growing.until)
        if growing is None:
            # By itself, so that this transaction, which waits for the disk, holds nobody's horizon back.
            async with database.transaction() as other:
                number = await journal.draw_number(other)
                while await asyncio.to_thread((directory / segment_name(number)).exists):
                    # Another catalog's, perhaps one that is to be restored: it needs what lies there.
                    number = await journal.draw_number(other)
        else:
            number = growing.number
        head = await journal.head_of(connection, number, before, page.entries)
        data = await asyncio.to_thread(_write, directory, head, page.entries)
        await journal.record(
            connection,
            head,
            page,
            bytes=len(data),
            adler32=_adler32(data),
            path=str(directory / segment_name(number)),
            closed=closing,
        )
        written = await journal.last_segment(connection)
    log.info("journal written", segment=number, entries=len(page.entries), bytes=len(data), closed=closing)
    return written


async def archive_segments(database: Database, directory: Path, session: aiohttp.ClientSession) -> int:
    """Put closed segments into the namespace, from where sessions bring them to tape like any file; how many.

    Raises CapstanError: the next round goes on.
    """
    async with database.connection() as connection:
        waiting = await journal.unarchived(connection, ARCHIVED_MAX)
        if waiting and not await journal.has_storage_class(connection):
            return 0
    put = 0
    for segment in waiting:
        try:
            data = await _bytes_of(database, directory, segment)
        except MissingSegment as error:
            # For a person to find; the others must not wait for it.
            log.error("journal segment not put", segment=segment.number, why=str(error))
            continue
        await _put(database, session, segment, data)
        async with database.transaction() as connection:
            await journal.archived(connection, segment.number)
        log.info("journal segment put", segment=segment.number, bytes=segment.bytes)
        put += 1
    return put


async def trim(database: Database) -> int:
    """Delete the rows whose segments are safe on tape; how many."""
    async with database.connection() as connection:
        segment = await journal.spent(connection)
    deleted = 0
    while segment is not None:
        async with database.transaction() as connection:
            count = await journal.delete_rows(connection, segment.until)
        deleted += count
        if count < DELETE_ROWS_MAX:
            break
    return deleted


async def _bytes_of(database: Database, directory: Path, segment: Segment) -> bytes:
    """A closed segment from the disk, or made again from its rows: another host wrote it, or a crash came between."""
    for path in (directory / segment_name(segment.number), Path(segment.path)):
        with suppress(FileNotFoundError):
            data = await asyncio.to_thread(path.read_bytes)
            if _adler32(data) == segment.adler32:
                return data
    async with database.connection() as connection:
        before = await journal.last_segment(connection, below=segment.number)
        start = before.until if before else Position()
        page: Page = await journal.unwritten(connection, start, segment.entries + 1, until=segment.until)
        if len(page.entries) != segment.entries:
            raise MissingSegment(number=segment.number, why=f"neither its file ({segment.path}) nor its rows are there")
        head = await journal.head_of(connection, segment.number, before, page.entries)
    data = await asyncio.to_thread(_write, directory, head, page.entries)
    if _adler32(data) != segment.adler32:
        raise MissingSegment(number=segment.number, why="its rows are not what they were")
    return data


async def _put(database: Database, session: aiohttp.ClientSession, segment: Segment, data: bytes) -> None:
    """The normal way of a put, with ourselves as the client. Nothing to do when the same bytes are there already."""
    try:
        async with database.transaction() as connection:
            admission = await _admit(connection, segment, data)
            keys = await identity.signing_keys(connection)
    except NoSpace as refusal:
        await replicas.report_refusal(database, refusal)
        raise
    if admission.claims is None:
        return
    url = f"{admission.url.rstrip('/')}/replica?sig={quote(sign(admission.claims, keys), safe='')}"
    try:
        async with session.put(url, data=data, allow_redirects=False) as answer:
            if answer.status in (200, 201):
                database.wake(PLANNER)
                return
            why = (await answer.text())[:300]
    except (aiohttp.ClientError, TimeoutError) as error:
        why = str(error) or type(error).__name__
    await _give_back(database, admission.claims)
    raise Unavailable(what=f"cache server {admission.cache_server}", why=why)


async def _admit(connection: AsyncConnection, segment: Segment, data: bytes) -> puts.Admission:
    await namespace.make_directory(
        connection, DIRECTORY, owner=SYSTEM.owner, group=SYSTEM.group, mode=0o750, mtime_ns=time.time_ns(), parents=True
    )
    return await puts.admit(
        connection,
        SYSTEM,
        (*DIRECTORY, segment_name(segment.number)),
        size=len(data),
        digests={"adler32": segment.adler32},
        if_none_match=False,
        storage_class=STORAGE_CLASS,
        mode=0o440,
        mtime_ns=time.time_ns(),
    )


async def _give_back(database: Database, claims: PutClaims) -> None:
    async with database.transaction() as connection:
        await puts.abandon(connection, claims.replica_id)
    database.wake(CACHE)


def _write(directory: Path, head: Head, entries: Sequence[Entry]) -> bytes:
    """Durable under its name when this returns."""
    data = encode_segment(head, entries)
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / segment_name(head.number), data)
    return data


def _adler32(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"

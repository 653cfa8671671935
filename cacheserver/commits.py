"""Commits of puts whose bytes are on the disk: those that are due at the same time share one transaction.

Each commit of its own would be a handful of round trips and a place in the queue for the disk of the catalog; many
small files would wait more than they move. Nobody waits for company: whoever comes while a transaction is under way
is in the next one. What is not plain, and what a broken transaction leaves in doubt, is committed one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from catalog import puts
from catalog.database import CACHE, EVENTS, QUEUES, Database, is_transient
from catalog.errors import CatalogUnreachable
from catalog.model import FileRecord
from catalog.puts import Landed

log = structlog.get_logger(__name__)

TOGETHER_MAX = 256
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 1.0

_Due = tuple[Landed, asyncio.Future[FileRecord | None]]


class Commits:
    def __init__(self, database: Database, *, seconds_max: float) -> None:
        self._database = database
        self._seconds_max = seconds_max
        self._due: deque[_Due] = deque()
        self._committing = asyncio.Lock()

    async def commit(self, landed: Landed) -> FileRecord:
        """The name appears. Whether a COMMIT whose answer was lost took place is found out by asking again.

        Raises what `puts.commit` refuses, and CatalogUnreachable when the outcome is unknown to the end: then the
        bytes have to stay for the reconciler, which knows by then.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds_max
        record = await self._together(landed)
        pause = PAUSE_SECONDS
        while record is None:
            try:
                async with self._database.transaction() as connection:
                    stored = await puts.commit(
                        connection, landed.claims, size=landed.size, adler32=landed.adler32, digests=landed.digests
                    )
                # A replaced file's bytes may go.
                self._wake(*((CACHE,) if landed.claims.replace else ()))
                return stored
            except Exception as exc:
                if not is_transient(exc):
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise CatalogUnreachable(
                        what="catalog", why="the commit got no answer", retry_after_seconds=5
                    ) from exc
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
        return record

    async def _together(self, landed: Landed) -> FileRecord | None:
        """With the others that are due now; None when that did not store it, or nobody knows."""
        outcome: asyncio.Future[FileRecord | None] = asyncio.get_running_loop().create_future()
        due = (landed, outcome)
        self._due.append(due)
        try:
            async with self._committing:
                # The first to come in works for all who came meanwhile.
                while not outcome.done():
                    await self._commit([self._due.popleft() for _ in range(min(len(self._due), TOGETHER_MAX))])
        finally:
            if not outcome.done() and due in self._due:
                # Cancelled while it waited: the bytes are the reconciler's.
                self._due.remove(due)
        return outcome.result()

    async def _commit(self, batch: list[_Due]) -> None:
        records: dict[int, FileRecord] = {}
        try:
            async with self._database.transaction() as connection:
                stored = await puts.commit_many(connection, [landed for landed, _ in batch])
            # Only now: a COMMIT that was lost on its way has stored nothing that anybody may be told of.
            records = stored
            self._wake()
        except Exception as exc:  # noqa: BLE001  # whose fault it was, and whether it took place, the single commits tell
            log.debug("a common commit failed", puts=len(batch), why=str(exc))
        finally:
            for landed, outcome in batch:
                if not outcome.done():
                    outcome.set_result(records.get(landed.claims.replica_id))

    def _wake(self, *more: str) -> None:
        for channel in (QUEUES, EVENTS, *more):
            self._database.wake(channel)

"""Promises of the common commit of puts: nobody hears "stored" before the catalog has said so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from cacheserver.commits import Commits
from catalog import puts
from catalog.database import Database
from catalog.errors import CatalogUnreachable
from catalog.model import FileRecord
from catalog.puts import Landed
from catalog.signing import PutClaims

RECORD = cast(FileRecord, object())


class LosingDatabase:
    """Runs the work of a transaction, and loses the connection in its COMMIT."""

    def __init__(self) -> None:
        self.losing = True
        self.committing = asyncio.Event()
        self.may_commit = asyncio.Event()
        self.may_commit.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield None
        self.committing.set()
        await self.may_commit.wait()
        if self.losing:
            raise CatalogUnreachable(what="catalog", why="connection lost in COMMIT")

    def wake(self, channel: str) -> None: ...


def landed(replica_id: int) -> Landed:
    claims = PutClaims(
        replica_id=replica_id, parent_node=1, name="f", path="/f", size=1, digests={}, if_none_match=False,
        replace=False, storage_class="one", owner="ann", group="exp", mode=0o644, mtime_ns=0, expires_at=4e9,
    )  # fmt: skip
    return Landed(claims=claims, size=1, adler32="00000001", digests={})


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> LosingDatabase:
    async def commit_many(_: Any, batch: Sequence[Landed]) -> dict[int, FileRecord]:
        return {one.claims.replica_id: RECORD for one in batch}

    async def commit(*_: Any, **__: Any) -> FileRecord:
        return RECORD

    monkeypatch.setattr(puts, "commit_many", commit_many)
    monkeypatch.setattr(puts, "commit", commit)
    return LosingDatabase()


async def test_a_put_whose_common_commit_was_lost_is_not_stored(database: LosingDatabase) -> None:
    commits = Commits(cast(Database, database), seconds_max=0.05)
    with pytest.raises(CatalogUnreachable):
        await commits.commit(landed(1))


async def test_who_is_cancelled_in_a_common_commit_ends_at_once_and_the_others_are_stored(
    database: LosingDatabase,
) -> None:
    database.losing = False
    database.may_commit.clear()
    commits = Commits(cast(Database, database), seconds_max=1.0)
    waiting = [asyncio.create_task(commits.commit(landed(number))) for number in (1, 2, 3)]
    await database.committing.wait()
    # The first goes alone; the other two came meanwhile and are committed together.
    database.committing.clear()
    database.may_commit.set()
    assert await waiting[0] is RECORD
    database.may_commit.clear()
    await database.committing.wait()
    waiting[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]
    database.may_commit.set()
    assert await waiting[1] is RECORD
    assert await commits.commit(landed(4)) is RECORD

"""Promises of a held lease: its holder believes in it no longer than the database has said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from catalog import leases
from catalog.database import Database
from catalog.errors import CatalogUnreachable
from catalog.leases import Lease
from tapeserver.heldlease import HeldLease


class LosingDatabase:
    """Loses the connection in COMMIT, when it is told to."""

    losing = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield None
        if self.losing:
            raise CatalogUnreachable(what="catalog", why="connection lost in COMMIT")


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> LosingDatabase:
    async def acquire(_: Any, name: str, holder: str, **__: Any) -> Lease:
        return Lease(name=name, holder=holder, number=1)

    async def renew(*_: Any, **__: Any) -> bool:
        return True

    monkeypatch.setattr(leases, "acquire", acquire)
    monkeypatch.setattr(leases, "renew", renew)
    return LosingDatabase()


class Clock:
    seconds = 100.0

    def time(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The event loop's, which stands still."""
    made = Clock()
    monkeypatch.setattr("asyncio.get_running_loop", lambda: made)
    return made


async def test_a_renewal_whose_commit_was_lost_does_not_prolong_the_belief(
    database: LosingDatabase, clock: Clock
) -> None:
    held = HeldLease(cast(Database, database), "planner:east", "ts", seconds=10)
    assert await held.hold() is not None
    assert held.sure
    database.losing = True
    clock.seconds += 6.0
    with pytest.raises(CatalogUnreachable):
        await held.hold()
    assert held.sure
    clock.seconds += 2.0
    assert not held.sure


async def test_a_lease_whose_taking_was_not_committed_is_not_held(database: LosingDatabase) -> None:
    held = HeldLease(cast(Database, database), "planner:east", "ts", seconds=10)
    database.losing = True
    with pytest.raises(CatalogUnreachable):
        await held.hold()
    assert not held.sure


async def test_who_cannot_wait_has_the_lease_without_a_renewal_for_as_long_as_it_is_sure(
    database: LosingDatabase, clock: Clock
) -> None:
    held = HeldLease(cast(Database, database), "planner:east", "ts", seconds=10)
    lease = await held.held()
    assert lease is not None
    database.losing = True
    clock.seconds += 6.0
    assert await held.held() == lease
    clock.seconds += 2.0
    with pytest.raises(CatalogUnreachable):
        await held.held()

"""catalog.database: transactions, COPY, errors and wake-ups, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.database import Database, copy_rows, is_transient, violates
from catalog.errors import CatalogUnreachable
from catalog.wakeups import BURST, Waker

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def items(database: Database) -> Database:
    async with database.transaction() as connection:
        await connection.execute(sa.text("CREATE TABLE item (id int CONSTRAINT item_once PRIMARY KEY, name text)"))
    return database


async def count(database: Database) -> int:
    async with database.connection() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM item"))).scalar_one())


async def end_connections(database: Database) -> None:
    """As a restart of the server does to every connection of this database but the one that asks."""
    name = sa.make_url(database.url).database
    async with Database(database.url) as other, other.connection() as connection:
        await connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = :name AND pid <> pg_backend_pid()"
            ),
            {"name": name},
        )


async def test_a_transaction_commits_on_leaving_and_rolls_back_on_an_error(items: Database) -> None:
    async with items.transaction() as connection:
        await connection.execute(sa.text("INSERT INTO item VALUES (1)"))
    with pytest.raises(RuntimeError):
        async with items.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO item VALUES (2)"))
            raise RuntimeError
    assert await count(items) == 1


async def test_copied_rows_are_rolled_back_with_their_transaction(items: Database) -> None:
    with pytest.raises(RuntimeError):
        async with items.transaction() as connection:
            assert await copy_rows(connection, "item", ["id", "name"], [(1, "a"), (2, None)]) == 2
            raise RuntimeError
    assert await count(items) == 0


async def test_a_violated_constraint_is_told_by_its_name_for_inserts_and_for_copy(items: Database) -> None:
    with pytest.raises(IntegrityError) as inserted:
        async with items.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO item VALUES (1), (1)"))
    with pytest.raises(asyncpg.UniqueViolationError) as copied:
        async with items.transaction() as connection:
            await copy_rows(connection, "item", ["id"], [(1,), (1,)])
    for caught in (inserted.value, copied.value):
        assert violates(caught, "item_once")
        assert not violates(caught, "another")
        assert not is_transient(caught)


async def test_promises_are_synchronous_and_sessions_speak_utc(database: Database) -> None:
    async with database.connection() as connection:
        row = await connection.execute(
            sa.text(
                "SELECT current_setting('synchronous_commit'), current_setting('timezone'),"
                " current_setting('fsync'), current_setting('application_name')"
            )
        )
    assert tuple(row.one()) == ("on", "UTC", "on", "test")


async def test_a_transaction_after_lost_connections_just_works(items: Database) -> None:
    async with items.connection(), items.connection():
        pass  # two in the pool
    await end_connections(items)
    async with items.transaction() as connection:
        await connection.execute(sa.text("INSERT INTO item VALUES (1)"))
    assert await count(items) == 1


async def test_a_connection_lost_inside_a_transaction_is_catalog_unreachable_and_worth_repeating(
    items: Database,
) -> None:
    with pytest.raises(CatalogUnreachable) as caught:
        async with items.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO item VALUES (1)"))
            await end_connections(items)
            await connection.execute(sa.text("INSERT INTO item VALUES (2)"))
    assert is_transient(caught.value)
    assert await count(items) == 0


async def test_a_copy_on_a_lost_connection_is_catalog_unreachable(items: Database) -> None:
    with pytest.raises(CatalogUnreachable):
        async with items.transaction() as connection:
            await connection.execute(sa.text("SELECT 1"))
            await end_connections(items)
            await copy_rows(connection, "item", ["id"], [(1,)])


async def test_no_server_is_catalog_unreachable() -> None:
    async with Database("postgresql+asyncpg://nobody@/none?host=/nonexistent") as database:
        with pytest.raises(CatalogUnreachable):
            async with database.connection():
                pass


async def test_a_missing_database_is_not_called_unreachable(database_url: str) -> None:
    url = sa.make_url(database_url).set(database="not_there").render_as_string(hide_password=False)
    async with Database(url) as database:
        with pytest.raises((asyncpg.InvalidCatalogNameError, DBAPIError)):
            async with database.connection():
                pass


async def test_connections_kept_apart_are_there_while_all_others_are_in_use_and_end_with_them(
    database_url: str,
) -> None:
    async with Database(database_url, connections_max=1, application_name="kept apart") as database:
        apart = database.apart()
        async with database.connection(), apart.connection() as connection:
            assert await connection.scalar(sa.text("SELECT 1")) == 1
        pid = sa.text("SELECT pg_backend_pid()")
        async with apart.connection() as connection:
            first = await connection.scalar(pid)
        await database.reset_connections()
        async with apart.connection() as connection:
            assert await connection.scalar(pid) != first
    ours = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kept apart'")
    async with Database(database_url) as other, other.connection() as connection, asyncio.timeout(10):
        while await connection.scalar(ours):
            await asyncio.sleep(0.01)


async def test_a_callers_own_error_passes_unchanged(items: Database) -> None:
    with pytest.raises(OSError, match="disk"):
        async with items.transaction():
            raise OSError("disk")


def touching(first: int, second: int, both_hold: asyncio.Barrier) -> Callable[[AsyncConnection], Awaitable[int]]:
    """A transaction that locks row `first`, waits for its rival once, and wants row `second`; its calls are counted."""
    calls = 0

    async def touch(connection: AsyncConnection) -> int:
        nonlocal calls
        calls += 1
        await connection.execute(sa.text("SET LOCAL deadlock_timeout = '10ms'"))
        await connection.execute(sa.text("UPDATE item SET name = 'x' WHERE id = :id"), {"id": first})
        if calls == 1:
            await both_hold.wait()
        await connection.execute(sa.text("UPDATE item SET name = 'x' WHERE id = :id"), {"id": second})
        return calls

    return touch


async def test_the_loser_of_a_deadlock_may_try_again(items: Database) -> None:
    async with items.transaction() as connection:
        await copy_rows(connection, "item", ["id"], [(1,), (2,)])
    barrier = asyncio.Barrier(2)
    outcomes = await asyncio.gather(
        items.run(touching(1, 2, barrier), attempts=1),
        items.run(touching(2, 1, barrier), attempts=1),
        return_exceptions=True,
    )
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(failed) == 1
    assert is_transient(failed[0])


async def test_run_repeats_the_loser_of_a_deadlock_until_it_is_done(items: Database) -> None:
    async with items.transaction() as connection:
        await copy_rows(connection, "item", ["id"], [(1,), (2,)])
    barrier = asyncio.Barrier(2)
    calls = await asyncio.gather(items.run(touching(1, 2, barrier)), items.run(touching(2, 1, barrier)))
    assert sorted(calls) == [1, 2]


async def test_run_does_not_repeat_what_cannot_pass(items: Database) -> None:
    calls = 0

    async def insert(connection: AsyncConnection) -> None:
        nonlocal calls
        calls += 1
        await connection.execute(sa.text("INSERT INTO item VALUES (1), (1)"))

    with pytest.raises(IntegrityError):
        await items.run(insert)
    assert calls == 1


async def test_a_wake_up_reaches_a_listener_and_only_on_its_channel(database: Database) -> None:
    async with database.listen(["recalls", "mounts"]) as wakeups:
        await wakeups.listening.wait()
        assert await wakeups.wait("recalls", 5)  # whoever has just connected may have missed something
        assert await wakeups.wait("mounts", 5)
        database.wake("recalls")
        assert await wakeups.wait(["recalls", "mounts"], 5) == {"recalls"}
        assert not await wakeups.wait("mounts", 0.05)


async def test_a_listener_reconnects_and_wakes_because_it_may_have_missed_something(database: Database) -> None:
    async with database.listen(["recalls"]) as wakeups:
        assert await wakeups.wait("recalls", 5)
        await end_connections(database)
        assert await wakeups.wait("recalls", 5)
        database.wake("recalls")
        assert await wakeups.wait("recalls", 5)


async def test_waiting_on_a_channel_that_is_not_listened_to_is_refused(database: Database) -> None:
    async with database.listen(["recalls"]) as wakeups:
        with pytest.raises(ValueError, match="mounts"):
            await wakeups.wait("mounts", 1)


async def test_a_thousand_wakes_are_a_handful_of_notifications_and_the_first_is_at_once() -> None:
    sent: list[tuple[str, ...]] = []

    async def notify(channels: object) -> None:
        sent.append(tuple(channels))  # type: ignore[arg-type, var-annotated]

    waker = Waker(notify)
    for _ in range(1000):
        waker.wake("recalls")
        await asyncio.sleep(0)
    assert sent == [("recalls",)] * (1 + BURST)
    await waker.close()
    assert sent == [("recalls",)] * (2 + BURST)  # what came after the last is not lost


async def test_the_clock_of_a_database_can_be_set(
    database: Database, set_clock: Callable[[datetime | None], Awaitable[None]]
) -> None:
    async def now() -> datetime:
        async with database.connection() as connection:
            found = (await connection.execute(sa.text("SELECT capstan_now()"))).scalar_one()
            assert isinstance(found, datetime)
            return found

    await set_clock(NOON)
    assert await now() == NOON
    await set_clock(None)
    assert await now() > NOON

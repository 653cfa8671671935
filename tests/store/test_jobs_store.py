"""The store of jobs on a real PostgreSQL: states that the database guards, limits, what is staged and how it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from catalog.database import Database, violates
from catalog.errors import NotFound, TooBusy
from jobserver import store
from jobserver.migrations import upgrade
from jobserver.states import MOVES, JobState
from jobserver.store import Input, Submission
from jobserver.tables import job, metadata


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    await upgrade(database_url)  # safe to repeat
    async with Database(database_url, application_name="test") as found:
        yield found


def submission(*files: int, owner: str = "ada", priority: int = 0) -> Submission:
    return Submission(
        owner=owner,
        groups=("hall",),
        grants=(("read", "/exp"), ("stage", "/exp")),
        name="job",
        argv=("true",),
        priority=priority,
        whole_volumes=None,
        inputs=tuple(Input(file=file, path=f"/exp/{file}", size=10) for file in files),
    )


async def submit(database: Database, wanted: Submission, *, jobs_max: int = 100, inputs_max: int = 100) -> int:
    async with database.transaction() as connection:
        return await store.submit(connection, wanted, jobs_max=jobs_max, inputs_max=inputs_max)


async def test_the_database_allows_the_steps_that_the_table_allows_and_no_other(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.execute(
            sa.text("select from_state, to_state from jobs.state_move where machine = 'job' and from_state <> ''")
        )
        in_database = {(row.from_state, row.to_state) for row in rows}
    assert in_database == {(str(state), str(target)) for state, targets in MOVES.items() for target in targets}


async def test_an_illegal_step_is_refused_by_the_database_too(database: Database) -> None:
    number = await submit(database, submission())
    with pytest.raises(DBAPIError) as refused:
        async with database.transaction() as connection:
            await connection.execute(sa.update(job).where(job.c.id == number).values(state="running"))
    assert violates(refused.value, "state_move")


async def test_the_tables_for_queries_are_those_that_the_migrations_make(database: Database) -> None:
    def columns(connection: sa.Connection) -> dict[str, dict[str, bool]]:
        inspector = sa.inspect(connection)
        return {
            name: {column["name"]: bool(column["nullable"]) for column in inspector.get_columns(name, schema="jobs")}
            for name in inspector.get_table_names(schema="jobs")
            if name not in ("state_move", "alembic_version")
        }

    async with database.connection() as connection:
        made = await connection.run_sync(columns)
    assert made == {
        table.name: {column.name: bool(column.nullable) for column in table.columns}
        for table in metadata.tables.values()
    }


async def test_a_submitted_job_and_its_inputs_are_read_back_as_they_were_given(database: Database) -> None:
    number = await submit(database, submission(3, 1, 2))
    async with database.connection() as connection:
        found = await store.get(connection, number)
        inputs = await store.inputs_of(connection, [number])
    assert (found.state, found.inputs, found.bytes, found.whole_volumes) == (JobState.ACCEPTED, 3, 30, None)
    assert found.grants == (("read", "/exp"), ("stage", "/exp"))
    assert [item.file for item in inputs[number]] == [3, 1, 2]
    with pytest.raises(NotFound):
        async with database.connection() as connection:
            await store.get(connection, number + 1)


async def test_jobs_and_inputs_beyond_their_limits_are_refused_and_leave_nothing(database: Database) -> None:
    await submit(database, submission(1, 2), jobs_max=2, inputs_max=3)
    with pytest.raises(TooBusy):
        await submit(database, submission(1, 2), jobs_max=2, inputs_max=3)
    with pytest.raises(TooBusy):
        await submit(database, submission(), jobs_max=1, inputs_max=3)
    async with database.connection() as connection:
        assert len(await store.page(connection, owner=None, states=(), after=0, limit=10)) == 1


async def test_two_jobs_of_one_name_have_different_keys_for_ever(database: Database) -> None:
    numbers = [await submit(database, submission()) for _ in range(2)]
    async with database.connection() as connection:
        nonces = {(await store.get(connection, number)).nonce for number in numbers}
    assert len(nonces) == 2


async def test_a_move_that_the_state_does_not_allow_changes_nothing_and_says_so(database: Database) -> None:
    number = await submit(database, submission())
    async with database.transaction() as connection:
        assert not await store.move(connection, number, JobState.RUNNING)
        assert await store.move(connection, number, JobState.CANCELLED)
        assert not await store.move(connection, number, JobState.HELD)
        assert (await store.get(connection, number)).ended_at is not None


async def test_live_jobs_come_by_priority_and_age_and_held_ones_up_to_a_limit(database: Database) -> None:
    numbers = [await submit(database, submission(priority=priority)) for priority in (0, 5, 0)]
    async with database.transaction() as connection:
        for number in numbers:
            await store.move(connection, number, JobState.HELD)
        assert [row.id for row in await store.live(connection, held_max=10)] == [numbers[1], numbers[0], numbers[2]]
        assert [row.id for row in await store.live(connection, held_max=1)] == [numbers[1]]


async def test_a_failed_staging_counts_a_try_and_waits_longer_each_time(database: Database) -> None:
    files = [Input(file=file, path=f"/exp/{file}", size=1) for file in (1, 2, 3)]
    pauses = []
    for _ in range(2):
        async with database.transaction() as connection:
            number = await store.begin_staging(connection, "A1", files, whole=False)
            await store.set_request(connection, number, "r1")
            (found,) = await store.open_stagings(connection)
            assert (found.request, found.volume, found.files) == ("r1", "A1", frozenset({1, 2, 3}))
            await store.end_staging(connection, number, failed={1: "bad"}, postponed={2: "down"}, pause=100.0)
            staged = await store.staged_files(connection)
            assert await store.open_stagings(connection) == []
        assert staged.keys() == {1, 2}
        pauses.append((staged[1].retry_in_seconds, staged[2].retry_in_seconds))
    assert (staged[1].tries, staged[1].last_error, staged[2].tries) == (2, "bad", 0)
    assert pauses[0] == pytest.approx((100, 100), abs=5)
    assert pauses[1] == pytest.approx((200, 100), abs=5)


async def test_ten_thousand_files_are_recorded_as_one_staging(database: Database) -> None:
    files = [Input(file=file, path=f"/exp/{file}", size=1) for file in range(10_000)]
    async with database.transaction() as connection:
        await store.begin_staging(connection, "A1", files, whole=True)
    async with database.connection() as connection:
        (found,) = await store.open_stagings(connection)
    assert (len(found.files), found.request, found.whole) == (10_000, None, True)


async def test_only_jobs_that_ended_long_ago_and_are_cleaned_may_be_forgotten(database: Database) -> None:
    numbers = [await submit(database, submission()) for _ in range(2)]
    async with database.transaction() as connection:
        for number in numbers:
            await store.move(connection, number, JobState.CANCELLED)
        await store.set_values(connection, numbers[0], cleaned=True)
    async with database.connection() as connection:
        assert await store.forgettable(connection, ended_seconds=60) == []
        assert [row.id for row in await store.forgettable(connection, ended_seconds=-1)] == [numbers[0]]


async def test_when_a_job_is_expected_is_told_until_the_time_is_over_or_it_has_ended(database: Database) -> None:
    number = await submit(database, submission(1))
    for seconds, told in ((None, None), (600.0, pytest.approx(600, abs=10)), (-1.0, None)):
        async with database.transaction() as connection:
            await store.set_values(connection, number, expected_at=store.in_seconds(seconds))
            assert (await store.get(connection, number)).expected_seconds == told
    async with database.transaction() as connection:
        await store.set_values(connection, number, expected_at=store.in_seconds(600.0))
        await store.move(connection, number, JobState.CANCELLED, reason="test")
        assert (await store.get(connection, number)).expected_seconds is None

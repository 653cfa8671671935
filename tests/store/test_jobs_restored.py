"""Promises about jobs in a catalog that was restored from a backup: nothing is started a second time (rule 7a.9)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from catalog.database import Database
from jobserver import store
from jobserver.batch import BatchSpec, BatchState
from jobserver.batch.local import LocalBatch
from jobserver.migrations import upgrade
from jobserver.restored import REASON, end_jobs
from jobserver.states import JobState
from jobserver.store import Submission
from jobserver.tables import job


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    async with Database(database_url, application_name="test") as found:
        yield found


_WAY = (JobState.ACCEPTED, JobState.HELD, JobState.STAGING, JobState.READY, JobState.RELEASED, JobState.RUNNING)


async def submitted(database: Database, state: JobState) -> int:
    """A job that has come as far as `state`."""
    wanted = Submission(
        owner="ada", groups=("hall",), grants=(), name="job", argv=("true",), priority=0, whole_volumes=None, inputs=()
    )
    way = _WAY[1 : _WAY.index(state) + 1] if state in _WAY else [*_WAY[1:], state]
    async with database.transaction() as connection:
        number = await store.submit(connection, wanted, jobs_max=100, inputs_max=100)
        for step in way:
            assert await store.move(connection, number, step)
    return number


async def restore(database: Database) -> int:
    async with database.transaction() as connection:
        return await end_jobs(connection)


async def test_what_had_not_ended_is_failed_and_says_why_and_what_had_ended_stays(database: Database) -> None:
    live = [await submitted(database, state) for state in _WAY]
    done = await submitted(database, JobState.DONE)
    assert await restore(database) == len(live)
    async with database.connection() as connection:
        for number in live:
            row = await store.get(connection, number)
            assert (row.state, row.reason, row.waiting) == (JobState.FAILED, REASON, ())
            # The job server gives its pins and its token back, as of any job that ended.
            assert row.ended_at is not None
            assert not row.cleaned
        assert (await store.get(connection, done)).state is JobState.DONE
    assert await restore(database) == 0


async def test_a_catalog_without_a_job_server_has_none(database_url: str) -> None:
    async with Database(database_url, application_name="test") as database, database.transaction() as connection:
        assert await end_jobs(connection) == 0


async def test_the_local_batch_system_starts_none_of_them_and_ends_what_still_runs(
    database: Database, tmp_path: Path
) -> None:
    # given jobs that are held, queued, and decided to start when the backup is made, and one that runs
    host = LocalBatch(database, tmp_path / "batch", slots=4, kill_after_seconds=0.3)
    script = f"echo $0 >> {tmp_path}/begun; sleep 60"

    async def submit(name: str) -> str:
        spec = BatchSpec(key=name, name=name, argv=("sh", "-c", script, name), environment={"PATH": os.environ["PATH"]})
        return await host.submit_held(spec)

    def begun() -> list[str]:
        return (tmp_path / "begun").read_text().split() if (tmp_path / "begun").exists() else []

    names = ("held", "queued", "starting", "running")
    natives = {name: await submit(name) for name in names}
    await host.release(natives["running"], priority=0)
    async with asyncio.timeout(20):
        while "running" not in begun():
            await host.step()
            await asyncio.sleep(0.02)
    async with database.transaction() as connection:
        # As the backup may know it: before it was seen to run.
        for name, states in (("queued", ("queued",)), ("starting", ("queued", "starting"))):
            for state in states:
                await connection.execute(
                    sa.text("update jobs.local_job set state = :state where key = :key"), {"state": state, "key": name}
                )

    # when the catalog is restored, and a server comes
    await restore(database)
    host = LocalBatch(database, tmp_path / "batch", slots=4, kill_after_seconds=0.3)
    async with asyncio.timeout(20):
        while await host.step():
            await asyncio.sleep(0.02)

    # then nothing else began, and what ran was ended
    found = await host.status_many(list(natives.values()))
    assert {status.key: status.state for status in found.values()} == dict.fromkeys(names, BatchState.CANCELLED)
    assert begun() == ["running"]


async def test_a_job_submitted_again_is_held_like_any(database: Database) -> None:
    await submitted(database, JobState.HELD)
    await restore(database)
    number = await submitted(database, JobState.HELD)
    async with database.connection() as connection:
        assert (await store.get(connection, number)).state is JobState.HELD
        assert await connection.scalar(sa.select(sa.func.count()).select_from(job)) == 2

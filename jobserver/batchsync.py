"""Keeps our jobs and the batch system's in step: hands new ones over held, learns what became of them, cleans up.

It decides nothing about files or release (holds.py does). Everything here is safe to repeat after a kill: handing over
is keyed by job and attempt, a cancel is remembered before it is passed on, and an ended job is cleaned until it is.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from catalog.database import Database
from catalog.errors import BadRequest, NotFound, Refused
from jobserver import store
from jobserver.batch import ENDED_STATES as BATCH_ENDED
from jobserver.batch import BatchSpec, BatchState, BatchStatus, BatchSystem
from jobserver.config import Config
from jobserver.doors import Doors
from jobserver.jobfiles import JobFiles
from jobserver.states import ENDED_STATES, JobState
from jobserver.store import JobRow

log = structlog.get_logger(__name__)

#: the way of a job that the batch system started, from wherever it was here
_WAY_TO_RUNNING = (JobState.HELD, JobState.STAGING, JobState.READY, JobState.RELEASED, JobState.RUNNING)


def pin_owner(job: int) -> str:
    return f"job:{job}"


class BatchSync:
    def __init__(self, config: Config, database: Database, batch: BatchSystem, doors: Doors) -> None:
        self._config = config
        self._database = database
        self._batch = batch
        self._doors = doors

    async def step(self, rows: Sequence[JobRow]) -> bool:
        """One look at every live job; whether any of them changed."""
        changed = False
        for row in rows:
            if row.state is JobState.ACCEPTED:
                changed |= await self._hand_over(row)
        handed = [row for row in rows if row.native_id is not None and row.state not in ENDED_STATES]
        for row in handed:
            if row.cancel_wanted and row.native_id is not None:
                with suppress(NotFound):
                    await self._batch.cancel(row.native_id)
        statuses = await self._batch.status_many([row.native_id for row in handed if row.native_id is not None])
        for row in handed:
            changed |= await self._follow(row, statuses.get(row.native_id or ""))
        return changed

    async def clean(self, row: JobRow) -> None:
        """Give back everything an ended job had: its place in the batch system, pins, token, files."""
        if row.native_id is not None:
            # A job that failed before its release is still held there.
            with suppress(NotFound):
                await self._batch.cancel(row.native_id)
        await self._doors.unpin(pin_owner(row.id))
        if row.token_id is not None:
            await self._doors.revoke_token(row.token_id)
        await asyncio.to_thread(JobFiles(self._config.data_dir, row.id).remove)
        async with self._database.transaction() as connection:
            await store.set_values(connection, row.id, cleaned=True, pinned_at=None)

    async def forget(self, row: JobRow) -> None:
        if row.native_id is not None:
            await self._batch.forget(row.native_id)
        async with self._database.transaction() as connection:
            await store.forget(connection, row.id)

    async def _hand_over(self, row: JobRow) -> bool:
        try:
            native_id = await self._batch.submit_held(self._spec(row))
        except (BadRequest, Refused) as error:
            async with self._database.transaction() as connection:
                return await store.move(connection, row.id, JobState.FAILED, reason=str(error))
        async with self._database.transaction() as connection:
            moved = await store.move(connection, row.id, JobState.HELD, native_id=native_id)
        log.info("job held", job=row.id, native_id=native_id, inputs=row.inputs)
        return moved

    def _spec(self, row: JobRow) -> BatchSpec:
        files = JobFiles(self._config.data_dir, row.id)
        programs = self._config.capstan_bin or str(Path(sys.executable).parent)
        environment = {
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
            "HOME": os.path.expanduser("~"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "CAPSTAN_URL": ",".join(self._config.door_urls),
            "CAPSTAN_TOKEN_FILE": str(files.token),
            "CAPSTAN_JOB_ID": str(row.id),
            "CAPSTAN_INPUT_LIST": str(files.input_list),
        }
        return BatchSpec(key=_key(row), name=row.name, argv=row.argv, environment=environment)

    async def _follow(self, row: JobRow, status: BatchStatus | None) -> bool:
        if status is None or status.key != _key(row):
            # After a crash of the batch system an id may be gone or be somebody else's: it says nothing of our job.
            reason = f"the batch system does not know it any more (as {row.native_id})"
            async with self._database.transaction() as connection:
                return await store.move(connection, row.id, JobState.FAILED, reason=reason)
        if status.state in BATCH_ENDED:
            return await self._ended(row, status)
        if status.state is BatchState.RUNNING and row.state is not JobState.RUNNING:
            # Also when the server was killed between the release and its record.
            await self._catch_up(row, status)
            log.info("job runs", job=row.id)
            return True
        return False

    async def _catch_up(self, row: JobRow, status: BatchStatus) -> None:
        async with self._database.transaction() as connection:
            for state in _WAY_TO_RUNNING[_WAY_TO_RUNNING.index(row.state) + 1 :]:
                await store.move(connection, row.id, state)
            await store.set_values(
                connection, row.id, started_at=status.started_at, waiting=[], volumes=[], on_disk=row.inputs
            )

    async def _ended(self, row: JobRow, status: BatchStatus) -> bool:
        state, reason = outcome(status, cancel_wanted=row.cancel_wanted)
        if status.started_at is not None and row.state is not JobState.RUNNING:
            await self._catch_up(row, status)
        async with self._database.transaction() as connection:
            moved = await store.move(
                connection, row.id, state, reason=reason, exit_code=status.exit_code, signal=status.signal
            )
            if moved and status.ended_at is not None:
                await store.set_values(connection, row.id, ended_at=status.ended_at)
        log.info("job ended", job=row.id, state=str(state), exit_code=status.exit_code, reason=reason)
        return moved


def outcome(status: BatchStatus, *, cancel_wanted: bool) -> tuple[JobState, str]:
    """What the end of a batch job means for ours, and the reason in words where there is one."""
    if status.state is BatchState.CANCELLED:
        return JobState.CANCELLED, status.reason or ("" if cancel_wanted else "it was cancelled in the batch system")
    if status.state is BatchState.LOST:
        return JobState.FAILED, status.reason or "the batch system lost it"
    if status.exit_code == 0:
        return JobState.DONE, ""
    if status.signal is not None:
        return JobState.FAILED, status.reason or f"it was ended by signal {status.signal}"
    return JobState.FAILED, status.reason or f"it ended with exit code {status.exit_code}"


def _key(row: JobRow) -> str:
    # Not the number alone: after a restore from a backup numbers are given out again, to other jobs.
    return f"job-{row.id}.{row.attempt}-{row.nonce}"

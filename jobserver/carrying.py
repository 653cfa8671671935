"""Carries out what holds.py decided, one instruction at a time, and follows the stage requests that came of it.

Each instruction commits what it is about to do, or does what can be repeated, before what it rests on: pins before
"staging", a last look before "ready", "ready" before the batch system hears of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence

import structlog

from catalog.database import Database
from catalog.errors import CapstanError, Unavailable, WrongState
from catalog.model import Action, Grant
from client.messages import PATHS_MAX, StageProgress
from jobserver import store
from jobserver.batch import PRIORITY_HIGH, BatchSystem
from jobserver.batchsync import pin_owner
from jobserver.config import Config
from jobserver.doors import Doors
from jobserver.grants import job_grants
from jobserver.holdmodel import Admit, Demote, Fail, Instruction, Release, Renew, Snapshot, Stage, TakeBack
from jobserver.jobfiles import JobFiles
from jobserver.knowledge import Knowledge
from jobserver.states import JobState
from jobserver.store import Input, JobRow, OpenStaging
from jobserver.volumechoice import oldest_waiting

log = structlog.get_logger(__name__)

#: between two looks at one stage request; where its files are is looked at in every round
_POLL_SECONDS = 2.0
_POLLS_A_ROUND_MAX = 20
#: jobs admitted or released at the same time; each takes a connection to the catalog now and then
_AT_ONCE_MAX = 6
_ENDED_ITEMS = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
#: further files of a whole volume that one request may hold
_WHOLE_VOLUME_FILES_MAX = 100_000


class Carrier:
    def __init__(
        self, config: Config, database: Database, batch: BatchSystem, doors: Doors, knowledge: Knowledge
    ) -> None:
        self._config = config
        self._database = database
        self._batch = batch
        self._doors = doors
        self._knowledge = knowledge
        self._polled_at: dict[int, float] = {}

    async def look_up(self, inputs: Sequence[Input]) -> None:
        """Learn where these files are now."""
        for start in range(0, len(inputs), PATHS_MAX):
            chunk = inputs[start : start + PATHS_MAX]
            answers = await self._doors.whereis([item.path for item in chunk])
            self._knowledge.learn(chunk, answers, now=time.monotonic())

    async def carry_out_all(
        self, instructions: Sequence[Instruction], rows: Mapping[int, JobRow], snapshot: Snapshot
    ) -> None:
        """In their order, but what concerns one job alone for several jobs at once: many may become ready together."""
        single = [one for one in instructions if isinstance(one, Admit | Renew | Release)]
        for start in range(0, len(single), _AT_ONCE_MAX):
            results = await asyncio.gather(
                *(self.carry_out(one, rows, snapshot) for one in single[start : start + _AT_ONCE_MAX]),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        for instruction in instructions:
            if not isinstance(instruction, Admit | Renew | Release):
                await self.carry_out(instruction, rows, snapshot)

    async def carry_out(self, instruction: Instruction, rows: Mapping[int, JobRow], snapshot: Snapshot) -> None:
        """Raises Unavailable when the door or the batch system does not answer: the next round decides anew."""
        try:
            match instruction:
                case Admit(job=job) | Renew(job=job):
                    await self._pin(rows[job], admit=isinstance(instruction, Admit))
                case Demote(job=job):
                    await self._demote(rows[job])
                case Stage():
                    await self._stage(instruction, snapshot)
                case Release(job=job):
                    await self._release(rows[job])
                case TakeBack(job=job):
                    await self._take_back(rows[job])
                case Fail(job=job, reason=reason):
                    # First the record: its cleaning takes it out of the batch system.
                    async with self._database.transaction() as connection:
                        await store.move(connection, job, JobState.FAILED, reason=reason)
                    log.info("job failed", job=job, reason=reason)
        except Unavailable:
            raise
        except CapstanError as error:
            log.warning("instruction not carried out", instruction=repr(instruction)[:200], reason=str(error))

    async def _pin(self, row: JobRow, *, admit: bool) -> None:
        files = [item.file for item in self._knowledge.inputs(row.id)]
        await self._doors.pin(pin_owner(row.id), files, lifetime_seconds=self._config.pin_seconds)
        async with self._database.transaction() as connection:
            await store.set_pinned(connection, row.id, pinned=True)
            if admit:
                await store.move(connection, row.id, JobState.STAGING)

    async def _demote(self, row: JobRow) -> None:
        # The record first: a job must never count as pinned when it is not.
        async with self._database.transaction() as connection:
            await store.set_pinned(connection, row.id, pinned=False)
            await store.move(connection, row.id, JobState.HELD)
        await self._doors.unpin(pin_owner(row.id))

    async def _release(self, row: JobRow) -> None:
        inputs = self._knowledge.inputs(row.id)
        # A last look, after the pins: what is on disk and pinned now stays until the job has ended.
        await self.look_up(inputs)
        if not all(self._knowledge.on_disk(item.file) for item in inputs):
            return
        await self._write_files(row, inputs)
        if row.state is not JobState.READY:
            async with self._database.transaction() as connection:
                if not await store.move(connection, row.id, JobState.READY):
                    return
        assert row.native_id is not None
        await self._batch.release(row.native_id, priority=PRIORITY_HIGH + row.priority)
        async with self._database.transaction() as connection:
            await store.move(connection, row.id, JobState.RELEASED, on_disk=row.inputs)
            await store.drop_staged(connection, [item.file for item in inputs])
        log.info("job released", job=row.id, waited_seconds=round(row.waited_seconds, 3))

    async def _write_files(self, row: JobRow, inputs: Sequence[Input]) -> None:
        files = JobFiles(self._config.data_dir, row.id)
        lines = []
        for item in inputs:
            local = self._knowledge.local_path(item.file, self._config.host_name)
            lines.append((item.path, local if local and os.access(local, os.R_OK) else ""))
        await asyncio.to_thread(files.write_inputs, lines)
        if row.token_id is not None and files.token.exists():
            return
        owned = [Grant(action=Action(action), prefix=prefix) for action, prefix in row.grants]
        made = await self._doors.make_token(
            label=pin_owner(row.id),
            owner=row.owner,
            groups=row.groups,
            grants=job_grants([item.path for item in inputs], owned, grants_max=self._config.token_grants_max),
            lifetime_seconds=self._config.token_seconds,
        )
        async with self._database.transaction() as connection:
            await store.set_values(connection, row.id, token_id=made.token_id)
        await asyncio.to_thread(files.write_token, made.token)

    async def _take_back(self, row: JobRow) -> None:
        assert row.native_id is not None
        try:
            await self._batch.hold(row.native_id)
        except WrongState:
            # It began in this moment; its token lets it stage what it misses by itself.
            return
        async with self._database.transaction() as connection:
            await store.move(connection, row.id, JobState.STAGING, tries=row.tries + 1)
        log.warning("job held again: an input was lost from disk", job=row.id, tries=row.tries + 1)

    # ------------------------------------------------------------------ stage requests

    async def _stage(self, wanted: Stage, snapshot: Snapshot) -> None:
        views = [snapshot.files[file] for file in wanted.files]
        files = [Input(file=view.file, path=view.path, size=view.size) for view in views]
        async with self._database.transaction() as connection:
            number = await store.begin_staging(connection, wanted.volume, files, whole=wanted.whole_volume)
        try:
            paths = [item.path for item in files]
            if wanted.whole_volume:
                paths += await self._rest_of(wanted.volume, set(paths), snapshot)
            oldest = oldest_waiting(snapshot.jobs, wanted.files)
            request = await self._doors.stage(
                paths,
                lifetime_seconds=self._config.stage_lifetime_seconds,
                activity="jobs",
                cohorts={view.path: pin_owner(oldest[view.file]) for view in views if view.file in oldest},
            )
        except CapstanError as error:
            unavailable = isinstance(error, Unavailable)
            answers = {item.file: str(error) for item in files}
            await self._end(number, failed={} if unavailable else answers, postponed=answers if unavailable else {})
            raise
        async with self._database.transaction() as connection:
            await store.set_request(connection, number, request)
        log.info("volume asked for", volume=wanted.volume, request=request, files=len(paths))

    async def _rest_of(self, volume: str, wanted: set[str], snapshot: Snapshot) -> list[str]:
        """What else lies on the volume, as far as the cache has room beside what jobs pinned."""
        pinned = {file for job in snapshot.jobs if job.pin_age_seconds is not None for file in job.inputs}
        room = (snapshot.cache_bytes or 0) - sum(snapshot.files[file].size for file in pinned)
        rest: list[str] = []
        async for found in self._doors.volume_files(volume):
            if len(rest) == _WHOLE_VOLUME_FILES_MAX:
                break
            if found.on_disk or found.path in wanted:
                continue
            room -= found.size
            if room < 0:
                break
            rest.append(found.path)
        return rest

    async def poll_stagings(self, rows: Sequence[JobRow]) -> None:
        """Follow the open requests: end those that are over, and those that nobody waits for any more."""
        async with self._database.connection() as connection:
            stagings = await store.open_stagings(connection)
        self._polled_at = {one.id: self._polled_at[one.id] for one in stagings if one.id in self._polled_at}
        needed = {item.file for row in rows for item in self._knowledge.inputs(row.id)}
        polls = 0
        for one in stagings:
            if one.request is None:
                # The server ended between the record and the request, or between the request and its answer.
                await self._end(one.id, failed={}, postponed=dict.fromkeys(one.files, ""), pause=0.0)
            elif not one.whole and not needed.intersection(one.files):
                await self._end(one.id, failed={}, postponed={})
                await self._doors.delete_stage(one.request)
            elif polls < _POLLS_A_ROUND_MAX and self._is_due(one):
                polls += 1
                self._polled_at[one.id] = time.monotonic()
                await self._poll(one, one.request)

    def _is_due(self, one: OpenStaging) -> bool:
        return time.monotonic() - self._polled_at.get(one.id, float("-inf")) >= _POLL_SECONDS

    async def _poll(self, one: OpenStaging, request: str) -> None:
        progress = await self._doors.stage_progress(request)
        if progress is not None and not _is_over(progress):
            return
        async with self._database.connection() as connection:
            staged = await store.staged_files(connection)
        files = [staged[file] for file in one.files if file in staged]
        await self.look_up([Input(file=item.file, path=item.path, size=item.size) for item in files])
        errors = {item.path: item.error or "" for item in progress.files} if progress is not None else {}
        failed, postponed = {}, {}
        for item in files:
            if self._knowledge.on_disk(item.file):
                continue
            if self._knowledge.blocked(item.file):
                # No copy can be read now: that is no failure of the file, and it waits with that reason.
                postponed[item.file] = errors.get(item.path, "")
            else:
                failed[item.file] = errors.get(item.path) or "its stage request ended, and it is not on disk"
        await self._end(one.id, failed=failed, postponed=postponed)
        if progress is not None:
            # Its own pins go with it; the jobs' pins are there.
            await self._doors.delete_stage(request)

    async def _end(
        self, number: int, *, failed: Mapping[int, str], postponed: Mapping[int, str], pause: float | None = None
    ) -> None:
        seconds = self._config.stage_retry_seconds if pause is None else pause
        async with self._database.transaction() as connection:
            await store.end_staging(connection, number, failed=failed, postponed=postponed, pause=seconds)
        if failed:
            log.warning("staging failed", files=len(failed), reason=next(iter(failed.values())))


def _is_over(progress: StageProgress) -> bool:
    if progress.completed_at is not None:
        return True
    return all(item.error is not None or item.state in _ENDED_ITEMS for item in progress.files)

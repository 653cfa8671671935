"""The loop that brings inputs to disk for held jobs: looks, asks holds.py what to do, and carries it out.

Each round makes a snapshot (our own tables, the batch system, the door), and every step of it is safe to repeat:
what is about to be done is committed first, so a kill at any point costs a repetition and nothing else. It decides
nothing itself. Rounds come every half second while jobs wait, and at once when somebody wakes it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import structlog

from catalog.database import Database
from catalog.errors import CapstanError, Unavailable
from jobserver import store
from jobserver.batch import BatchSystem
from jobserver.batchsync import BatchSync
from jobserver.carrying import Carrier
from jobserver.config import Config
from jobserver.doors import Doors
from jobserver.heldestimates import HeldTime, expected_of_held
from jobserver.holdmodel import Plan, Policy, Snapshot
from jobserver.holds import plan
from jobserver.knowledge import Knowledge
from jobserver.states import ENDED_STATES, WAITING_STATES, JobState
from jobserver.store import JobRow
from jobserver.volumechoice import choose_volumes

log = structlog.get_logger(__name__)

#: an instruction may make the next one possible (admit, then stage); more than a few in a row wait for the next round
_PLANS_A_ROUND_MAX = 6
#: between two rounds, however many wake-ups: a burst of arrivals is one look
_ROUND_GAP_SECONDS = 0.1
_FORGET_EVERY_SECONDS = 60.0
#: when a job's inputs are expected is written anew when it has moved by more than this part of the wait, or so much
EXPECTED_PART, EXPECTED_SECONDS = 0.1, 5.0
#: … and of those that are held it is worked out so often: all of them are gone through
HELD_SECONDS = 5.0


class Prestager:
    """`await run()` for ever; `wake()` when something changed."""

    def __init__(self, config: Config, database: Database, batch: BatchSystem, doors: Doors) -> None:
        self._config = config
        self._database = database
        self._doors = doors
        self._sync = BatchSync(config, database, batch, doors)
        self._knowledge = Knowledge(
            verify_seconds=config.verify_seconds, whole_volumes=config.whole_volumes, pin_seconds=config.pin_seconds
        )
        self._carrier = Carrier(config, database, batch, doors, self._knowledge)
        self._changed = asyncio.Event()
        self._libraries_down: dict[str, str] = {}
        self._cache_bytes: int | None = None
        self._site_seen_at = float("-inf")
        self._forgotten_at = float("-inf")
        self._held: dict[int, HeldTime] = {}
        self._held_at = float("-inf")
        self._trouble = ""

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Rounds, until it is cancelled. What does not answer is tried again in the next round."""
        while True:
            self._changed.clear()
            pause = self._config.reconcile_seconds
            try:
                waiting = await self.round()
                self._tell_trouble("")
                if not waiting:
                    pause = self._config.idle_reconcile_seconds
            except CapstanError as error:
                self._tell_trouble(str(error))
            await asyncio.sleep(_ROUND_GAP_SECONDS)
            try:
                async with asyncio.timeout(pause - _ROUND_GAP_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def round(self) -> bool:
        """One look at everything; whether there is a job that has not begun."""
        rows = await self._rows()
        if await self._sync.step(rows):
            rows = await self._rows()
        await self._clean([row for row in rows if row.state in ENDED_STATES])
        await self._forget_old()
        rows = [row for row in rows if row.state not in ENDED_STATES]
        await self._learn_inputs(rows)
        waiting = any(row.state in WAITING_STATES for row in rows)
        if waiting:
            await self._look(rows)
        await self._carrier.poll_stagings(rows)
        if rows:
            await self._decide(rows)
        return waiting

    async def _rows(self) -> list[JobRow]:
        async with self._database.connection() as connection:
            return await store.live(connection, held_max=self._config.jobs_considered_max)

    async def _clean(self, rows: Sequence[JobRow]) -> None:
        for row in rows:
            try:
                await self._sync.clean(row)
            except Unavailable:
                raise
            except CapstanError as error:
                # One that cannot be cleaned now must not keep the others waiting.
                log.warning("job not cleaned", job=row.id, reason=str(error))

    async def _forget_old(self) -> None:
        if time.monotonic() - self._forgotten_at < _FORGET_EVERY_SECONDS:
            return
        self._forgotten_at = time.monotonic()
        async with self._database.connection() as connection:
            old = await store.forgettable(connection, ended_seconds=self._config.ended_kept_seconds)
        for row in old:
            await self._sync.forget(row)

    async def _learn_inputs(self, rows: Sequence[JobRow]) -> None:
        self._knowledge.keep_only(rows)
        unknown = self._knowledge.unknown_jobs(rows)
        if unknown:
            async with self._database.connection() as connection:
                self._knowledge.learn_inputs(await store.inputs_of(connection, unknown))

    async def _look(self, rows: Sequence[JobRow]) -> None:
        """Ask the door where files are, and now and then how libraries and cache are."""
        now = time.monotonic()
        if now - self._site_seen_at >= self._config.verify_seconds:
            self._libraries_down = await self._doors.libraries_down()
            capacity = await self._doors.cache_bytes()
            self._cache_bytes = None if capacity is None else int(capacity * self._config.pinned_fraction_max)
            self._site_seen_at = now
        async with self._database.connection() as connection:
            staged = await store.staged_files(connection)
        wanted = self._knowledge.to_look_up(rows, staged, now=now, limit=self._config.whereis_paths_max)
        await self._carrier.look_up(wanted)

    async def _decide(self, rows: Sequence[JobRow]) -> None:
        for _ in range(_PLANS_A_ROUND_MAX):
            async with self._database.connection() as connection:
                staged = await store.staged_files(connection)
            snapshot = self._knowledge.snapshot(
                rows, staged, libraries_down=self._libraries_down, cache_bytes=self._cache_bytes
            )
            if snapshot is None:
                return
            found = plan(snapshot, self._policy())
            await self._record_waiting(rows, snapshot, found)
            by_id = {row.id: row for row in rows}
            if not found.instructions:
                return
            await self._carrier.carry_out_all(found.instructions, by_id, snapshot)
            rows = [row for row in await self._rows() if row.state not in ENDED_STATES]
            await self._learn_inputs(rows)

    def _policy(self) -> Policy:
        config = self._config
        staged = config.staged_bytes_max or (self._cache_bytes or 0) // 2
        return Policy(
            staged_bytes_max=staged,
            stage_tries_max=config.stage_tries_max,
            starve_after_seconds=config.starve_after_seconds,
            pin_renew_seconds=config.pin_seconds / 2,
        )

    async def _record_waiting(self, rows: Sequence[JobRow], snapshot: Snapshot, found: Plan) -> None:
        """What users read on `tjob` and `explain`; written only when it changed."""
        inputs = {job.job: job.inputs for job in snapshot.jobs}
        changes, now = [], time.monotonic()
        times = self._times(rows, snapshot, now)
        for row in rows:
            if row.id not in found.waiting:
                continue
            files = [snapshot.files[file] for file in inputs[row.id]]
            missing = [file for file in files if not file.on_disk]
            volumes = tuple(sorted(Counter(choose_volumes(missing).values())))
            on_disk = len(files) - len(missing)
            expected = times.get(row.id, HeldTime(None))
            sentences = found.waiting[row.id]
            if expected.why:
                sentences = (*sentences[:1], expected.why, *sentences[1:])
            same = (row.waiting, row.volumes, row.on_disk) == (sentences, volumes, on_disk)
            if not same or _moved(row.expected_seconds, expected.seconds):
                changes.append((row.id, sentences, volumes, on_disk, expected.seconds))
        if not changes:
            return
        async with self._database.transaction() as connection:
            for job, sentences, volumes, on_disk, seconds in sorted(changes, key=lambda change: change[0]):
                await store.set_values(
                    connection, job, waiting=list(sentences), volumes=list(volumes), on_disk=on_disk,
                    expected_at=store.in_seconds(seconds),
                )  # fmt: skip

    def _times(self, rows: Sequence[JobRow], snapshot: Snapshot, now: float) -> dict[int, HeldTime]:
        """When the last input of each job that waits is expected."""
        known = {
            row.id: self._knowledge.expected_seconds(row.id, now=now) for row in rows if row.state is JobState.STAGING
        }
        if now - self._held_at >= HELD_SECONDS:
            self._held, self._held_at = expected_of_held(snapshot, self._policy(), known), now
        held = {row.id: self._held[row.id] for row in rows if row.state is JobState.HELD and row.id in self._held}
        passed = now - self._held_at
        return {job: HeldTime(seconds) for job, seconds in known.items()} | {
            job: HeldTime(None if one.seconds is None else max(0.0, one.seconds - passed), one.why)
            for job, one in held.items()
        }

    def _tell_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("pre-staging waits", reason=trouble)
        elif self._trouble and not trouble:
            log.info("pre-staging goes on")
        self._trouble = trouble

    @property
    def trouble(self) -> str:
        """What kept the last round from its end; empty when nothing did."""
        return self._trouble


def _moved(before: float | None, expected: float | None) -> bool:
    """Whether it has moved by more than anybody would care about."""
    if before is None or expected is None:
        return before is not expected
    return abs(expected - before) > max(EXPECTED_SECONDS, EXPECTED_PART * expected)


async def wake_on_events(doors: Doors, prestager: Prestager) -> None:
    """Wake the pre-stager when the door tells of a change. Only a hint: its rounds come without it too."""
    while True:
        try:
            async for _ in doors.events():
                prestager.wake()
        except Unavailable:
            pass
        except CapstanError as error:
            log.warning("event stream refused", reason=str(error))
            await asyncio.sleep(30.0)
        await asyncio.sleep(1.0)

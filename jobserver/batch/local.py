"""The batch system `local`: jobs as processes of this host, in slots, under the server's own user.

Its queue is in PostgreSQL, so it survives every restart; its jobs run under detached runners (jobserver/runner.py), so
they do too, and the next server adopts them. A start is committed before a runner is launched, and the runner makes
the file `started` exclusively before the program: whatever is killed when, a program is started once at most. It knows
nothing of files on tape; see jobserver/holds.py for when a job is released.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from catalog.database import Database
from catalog.errors import BadConfig, BadRequest, CatalogUnreachable, NotFound, TooLarge, WrongState
from jobserver.batch import ENDED_STATES, BatchSpec, BatchState, BatchStatus, Capabilities, Stream, local_queue
from jobserver.batch.local_attempt import Attempt, Observation, Sight
from jobserver.batch.local_queue import BusyJob, Outcome

log = structlog.get_logger(__name__)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: runners that were launched and have not begun are launched again after this time (safe: one at most begins)
_LAUNCH_AGAIN_SECONDS = 10.0
_LAUNCHES_MAX = 3


class LocalBatch:
    """`await run()` beside it does the work; without that, jobs are accepted and stay where they are.

    `root` belongs to this system alone. Raises BadConfig when it is another user's.
    """

    def __init__(
        self,
        database: Database,
        root: Path,
        *,
        slots: int,
        argv_bytes_max: int = 1 << 17,
        output_bytes_max: int = 1 << 30,
        kill_after_seconds: float = 10.0,
        look_every_seconds: float = 0.1,
        idle_look_every_seconds: float = 1.0,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if root.stat().st_uid != os.geteuid():
            # Jobs run as the server's user and as nobody else; a directory of somebody else's says it is not ours.
            raise BadConfig(source="data_dir", why=f"{root} belongs to another user")
        self._database = database
        self._root = root.resolve()
        self._slots = slots
        self._kill_after_seconds = kill_after_seconds
        self._look_every_seconds = look_every_seconds
        self._idle_look_every_seconds = idle_look_every_seconds
        self._capabilities = Capabilities(
            name="local",
            slots=slots,
            argv_bytes_max=argv_bytes_max,
            output_bytes_max=output_bytes_max,
            runs_as_server=True,
        )
        self._changed = asyncio.Event()
        #: begins and ends recorded by this process
        self._recorded = 0
        #: per job: launches of this process and when the last was; only to launch again, never to decide an end
        self._launches: dict[int, tuple[int, float]] = {}
        #: per job: when this process first told its runner to end
        self._told: dict[int, float] = {}

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def submit_held(self, spec: BatchSpec) -> str:
        size = sum(len(os.fsencode(word)) + 1 for word in spec.argv)
        if size > self._capabilities.argv_bytes_max:
            raise TooLarge(what="the command line", actual=size, limit=self._capabilities.argv_bytes_max)
        if not spec.argv or not spec.argv[0] or any("\0" in word for word in spec.argv):
            raise BadRequest(why="the command line is empty, or holds a NUL character")
        if not _KEY.fullmatch(spec.key):
            raise BadRequest(why=f"the key {spec.key!r} is not a plain name")
        async with self._database.transaction() as connection:
            return str(await local_queue.add(connection, spec))

    async def release(self, native_id: str, *, priority: int) -> None:
        await self._status(native_id)
        async with self._database.transaction() as connection:
            await local_queue.release(connection, int(native_id), priority=priority)
        self._changed.set()

    async def hold(self, native_id: str) -> None:
        async with self._database.transaction() as connection:
            await local_queue.hold(connection, int(native_id))
        status = await self._status(native_id)
        if status.state is not BatchState.HELD:
            raise WrongState(object=f"the batch job {status.key}", state=str(status.state), action="holding it")

    async def cancel(self, native_id: str) -> None:
        await self._status(native_id)
        async with self._database.transaction() as connection:
            await local_queue.cancel(connection, int(native_id))
        self._changed.set()

    async def status_many(self, native_ids: Collection[str]) -> dict[str, BatchStatus]:
        async with self._database.connection() as connection:
            found = await local_queue.statuses(connection, [int(native) for native in native_ids if native.isdecimal()])
        return {status.native_id: status for status in found}

    async def output(self, native_id: str, which: Stream, *, offset: int, bytes_max: int) -> bytes:
        status = await self._status(native_id)
        return await asyncio.to_thread(Attempt(self._root, status.key).read, which, offset, bytes_max)

    async def forget(self, native_id: str) -> None:
        status = (await self.status_many([native_id])).get(native_id)
        if status is None:
            return
        if status.state not in ENDED_STATES:
            raise WrongState(object=f"the batch job {status.key}", state=str(status.state), action="forgetting it")
        # Files first: without them the record can still be found and this repeated, but not the other way round.
        await asyncio.to_thread(Attempt(self._root, status.key).remove)
        async with self._database.transaction() as connection:
            await local_queue.delete(connection, int(native_id))

    async def _status(self, native_id: str) -> BatchStatus:
        status = (await self.status_many([native_id])).get(native_id)
        if status is None:
            raise NotFound(what=f"the batch job {native_id}")
        return status

    # ------------------------------------------------------------------ the work

    async def run(self, *, on_change: Callable[[], None] = lambda: None) -> None:
        """Start what is released, adopt what runs, record what ended; for ever, until it is cancelled.

        `on_change` is called after a job began or ended. Cancelling `run` ends no job: they go on under their runners.
        """
        while True:
            self._changed.clear()
            try:
                recorded = self._recorded
                busy = await self.step()
                if self._recorded != recorded:
                    on_change()
            except CatalogUnreachable as error:
                log.warning("local batch system waits for the catalog", reason=str(error))
                busy = 0
            pause = self._look_every_seconds if busy else self._idle_look_every_seconds
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def step(self) -> int:
        """Look at every busy job once, then fill the free slots; how many are busy now."""
        async with self._database.connection() as connection:
            before = await local_queue.busy(connection)
        for job in before:
            await self._attend(job)
        async with self._database.transaction() as connection:
            still = await local_queue.busy(connection)
            free = self._slots - len(still)
            claimed = await local_queue.claim(connection, free) if free > 0 else 0
        if not claimed:
            return len(still)
        # Only now is the decision to start committed.
        async with self._database.connection() as connection:
            present = await local_queue.busy(connection)
        for job in present:
            if job.state is BatchState.STARTING:
                await self._attend(job)
        return len(present)

    async def _attend(self, job: BusyJob) -> None:
        attempt = Attempt(self._root, job.key)
        seen = await asyncio.to_thread(attempt.observe)
        if seen.sight is Sight.NOT_STARTED:
            await self._start(job, attempt)
        elif seen.sight is Sight.RUNNING:
            if job.state is BatchState.STARTING:
                async with self._database.transaction() as connection:
                    await local_queue.mark_running(connection, job.id, seen.started_at or time.time())
                self._recorded += 1
                log.info("job started", key=job.key)
            if job.cancel_wanted:
                await self._end(job, attempt)
        else:
            await self._record_end(job, seen)

    async def _start(self, job: BusyJob, attempt: Attempt) -> None:
        if job.cancel_wanted:
            if await asyncio.to_thread(attempt.forbid):
                await self._finish(job, Outcome(state=BatchState.CANCELLED))
            return
        launches, last = self._launches.get(job.id, (0, 0.0))
        if launches and time.monotonic() - last < _LAUNCH_AGAIN_SECONDS:
            return
        if launches >= _LAUNCHES_MAX:
            if await asyncio.to_thread(attempt.forbid):
                why = await asyncio.to_thread(attempt.log_end) or "no runner began"
                await self._finish(job, Outcome(state=BatchState.LOST, reason=f"it could not be started: {why}"))
            return
        self._launches[job.id] = (launches + 1, time.monotonic())
        try:
            await asyncio.to_thread(attempt.launch, self._order(job))
        except (OSError, ValueError) as error:
            log.warning("job runner could not be launched", key=job.key, error=str(error))

    def _order(self, job: BusyJob) -> dict[str, Any]:
        umask = os.umask(0o077)
        os.umask(umask)
        return {
            "argv": list(job.argv),
            "environment": dict(job.environment),
            "umask": umask,
            "output_bytes_max": self._capabilities.output_bytes_max,
            "kill_after_seconds": self._kill_after_seconds,
        }

    async def _end(self, job: BusyJob, attempt: Attempt) -> None:
        # The runner ends everything the job started, and by force after a while. One that does not even do that is
        # killed, and the kernel ends the program with it.
        told = self._told.setdefault(job.id, time.monotonic())
        late = time.monotonic() - told > 2 * self._kill_after_seconds + 5.0
        await asyncio.to_thread(attempt.signal_runner, signal.SIGKILL if late else signal.SIGTERM)

    async def _record_end(self, job: BusyJob, seen: Observation) -> None:
        if seen.sight is Sight.ENDED:
            state = BatchState.CANCELLED if seen.cancelled and job.cancel_wanted else BatchState.ENDED
            reason = seen.reason
            if seen.cancelled and not job.cancel_wanted:
                reason = "its runner was told to end, and not by a cancel"
        elif job.cancel_wanted:
            state, reason = BatchState.CANCELLED, ""
        else:
            state, reason = BatchState.LOST, "it was started, and its runner went without saying how it ended"
        await self._finish(
            job,
            Outcome(state=state, exit_code=seen.exit_code, signal=seen.signal, reason=reason, ended_at=seen.ended_at),
            seen.started_at,
        )

    async def _finish(self, job: BusyJob, outcome: Outcome, started_at: float | None = None) -> None:
        async with self._database.transaction() as connection:
            if started_at is not None and job.state is BatchState.STARTING:
                await local_queue.mark_running(connection, job.id, started_at)
            await local_queue.mark_ended(connection, job.id, outcome)
        self._recorded += 1
        self._launches.pop(job.id, None)
        self._told.pop(job.id, None)
        log.info("job ended", key=job.key, state=str(outcome.state), exit_code=outcome.exit_code, signal=outcome.signal)

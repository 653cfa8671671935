"""A batch system inside the process, for tests: keeps the whole contract, runs no program, forgets with the process.

What a "program" does is said beforehand by its argv[0], in `programs`; one that says nothing of its end runs until
`finish` or a cancel. It is deterministic: a job starts in the call that makes it startable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from catalog.errors import BadRequest, NotFound, TooLarge, WrongState
from jobserver.batch import ENDED_STATES, MOVES, BatchSpec, BatchState, BatchStatus, Capabilities, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    stdout: bytes = b""
    stderr: bytes = b""
    #: None: it runs until somebody ends it
    exit_code: int | None = None
    signal: int | None = None


@dataclass(slots=True, kw_only=True)
class _Job:
    spec: BatchSpec
    status: BatchStatus
    priority: int = 0
    released: int = 0
    output: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b""})


class MemoryBatch:
    def __init__(
        self,
        programs: Mapping[str, Program] | None = None,
        *,
        slots: int = 1,
        argv_bytes_max: int = 1 << 17,
        output_bytes_max: int = 1 << 20,
    ) -> None:
        self._programs = dict(programs or {})
        self._jobs: dict[str, _Job] = {}
        self._numbers = 0
        self._releases = 0
        self._capabilities = Capabilities(
            name="memory",
            slots=slots,
            argv_bytes_max=argv_bytes_max,
            output_bytes_max=output_bytes_max,
            runs_as_server=False,
        )
        #: keys in the order in which they were started, for tests to look at
        self.started: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def submit_held(self, spec: BatchSpec) -> str:
        size = sum(len(word.encode()) + 1 for word in spec.argv)
        if size > self._capabilities.argv_bytes_max:
            raise TooLarge(what="the command line", actual=size, limit=self._capabilities.argv_bytes_max)
        if not spec.argv or not spec.argv[0] or any("\0" in word for word in spec.argv):
            raise BadRequest(why="the command line is empty, or holds a NUL character")
        for native_id, job in self._jobs.items():
            if job.spec.key == spec.key:
                return native_id
        self._numbers += 1
        native_id = str(self._numbers)
        status = BatchStatus(native_id=native_id, key=spec.key, state=BatchState.HELD)
        self._jobs[native_id] = _Job(spec=spec, status=status)
        return native_id

    async def release(self, native_id: str, *, priority: int) -> None:
        job = self._job(native_id)
        if job.status.state not in (BatchState.HELD, BatchState.QUEUED):
            return
        job.priority = priority
        if job.status.state is BatchState.HELD:
            self._releases += 1
            job.released = self._releases
            self._move(job, BatchState.QUEUED)
        self._fill_slots()

    async def hold(self, native_id: str) -> None:
        job = self._job(native_id)
        if job.status.state is BatchState.QUEUED:
            self._move(job, BatchState.HELD)
        if job.status.state is not BatchState.HELD:
            raise WrongState(object=f"the batch job {job.spec.key}", state=str(job.status.state), action="holding it")

    async def cancel(self, native_id: str) -> None:
        job = self._job(native_id)
        if job.status.state not in ENDED_STATES:
            self._move(job, BatchState.CANCELLED)
            self._fill_slots()

    async def status_many(self, native_ids: Collection[str]) -> dict[str, BatchStatus]:
        return {native_id: self._jobs[native_id].status for native_id in native_ids if native_id in self._jobs}

    async def output(self, native_id: str, which: Stream, *, offset: int, bytes_max: int) -> bytes:
        return self._job(native_id).output[which][offset : offset + bytes_max]

    async def forget(self, native_id: str) -> None:
        job = self._jobs.get(native_id)
        if job is None:
            return
        if job.status.state not in ENDED_STATES:
            raise WrongState(
                object=f"the batch job {job.spec.key}", state=str(job.status.state), action="forgetting it"
            )
        del self._jobs[native_id]

    def finish(self, native_id: str, *, exit_code: int = 0) -> None:
        """A running program ends by itself."""
        job = self._job(native_id)
        self._move(job, BatchState.ENDED)
        job.status = replace(job.status, exit_code=exit_code)
        self._fill_slots()

    def _job(self, native_id: str) -> _Job:
        if native_id not in self._jobs:
            raise NotFound(what=f"the batch job {native_id}")
        return self._jobs[native_id]

    @staticmethod
    def _move(job: _Job, state: BatchState) -> None:
        if state not in MOVES[job.status.state]:
            raise WrongState(object=f"the batch job {job.spec.key}", state=str(job.status.state), action=f"{state}")
        job.status = replace(job.status, state=state)

    def _fill_slots(self) -> None:
        while True:
            queued = [job for job in self._jobs.values() if job.status.state is BatchState.QUEUED]
            running = [job for job in self._jobs.values() if job.status.state is BatchState.RUNNING]
            if not queued or len(running) >= (self._capabilities.slots or 0):
                return
            self._start(min(queued, key=lambda job: (-job.priority, job.released)))

    def _start(self, job: _Job) -> None:
        self._move(job, BatchState.STARTING)
        self._move(job, BatchState.RUNNING)
        self.started.append(job.spec.key)
        name = job.spec.argv[0]
        if name not in self._programs:
            self._move(job, BatchState.ENDED)
            job.status = replace(job.status, exit_code=127, reason=f"the program {name!r} was not found")
            return
        program = self._programs[name]
        limit = self._capabilities.output_bytes_max
        for which, data in (("stdout", program.stdout), ("stderr", program.stderr)):
            dropped = len(data) - limit
            note = b"\n[capstan: %d more bytes were not kept]\n" % dropped if dropped > 0 else b""
            job.output[which] = data[:limit] + note
        if program.exit_code is not None or program.signal is not None:
            self._move(job, BatchState.ENDED)
            job.status = replace(job.status, exit_code=program.exit_code, signal=program.signal)

"""Jobs: submit, look, wait, read output. Over the door, which relays to the job server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum

import aiohttp

from catalog.errors import TimedOut
from catalog.units import show_about
from client.jobmessages import (
    JOB_STATE_HEADER,
    JOB_STATES_ENDED,
    OUTPUT_WAIT_SECONDS_MAX,
    Job,
    SubmitBody,
    Submitted,
)
from client.jobmessages import Jobs as JobList
from client.staging import OnWaiting, no_waiting
from client.transport import Call, MaybeDone, Transport

_API = "/api/jobs/v1/jobs"
#: of one answer of output; the rest comes with the next
OUTPUT_WAIT_SECONDS = 10.0
POLL_SECONDS_MIN = 0.2
POLL_SECONDS_MAX = 5.0


class Stream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


class Jobs:
    """The jobs API over a session's transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def submit(
        self,
        argv: Sequence[str],
        *,
        inputs: Sequence[str] = (),
        name: str = "",
        priority: int = 0,
        whole_volumes: bool | None = None,
    ) -> int:
        """The new job's id. Not repeated after a lost answer (MaybeDone): the job might run twice."""
        body = SubmitBody(
            argv=list(argv), inputs=list(inputs), name=name, priority=priority, whole_volumes=whole_volumes
        )
        return (await self._transport.call("POST", _API, Submitted, body=body, repeatable=False)).job_id

    async def list(self, *, state: str | None = None, limit: int = 1000) -> AsyncIterator[Job]:
        """All jobs that the token may see, page by page."""
        query = {"limit": str(limit)} | ({"state": state} if state else {})
        while True:
            page = await self._transport.call("GET", _API, JobList, query=query)
            for job in page.jobs:
                yield job
            if page.next is None:
                return
            query["after"] = str(page.next)

    async def get(self, job_id: int) -> Job:
        return await self._transport.call("GET", f"{_API}/{job_id}", Job)

    async def cancel(self, job_id: int) -> None:
        await self._transport.call("POST", f"{_API}/{job_id}/cancel", object)

    async def output(
        self, job_id: int, stream: Stream, *, follow: bool = False, offset: int = 0
    ) -> AsyncIterator[bytes]:
        """What the job wrote from `offset` on; with `follow` until the job has ended and all of it was given."""
        while True:
            content, ended = await self._output_once(job_id, stream, offset, follow)
            if content:
                yield content
                offset += len(content)
            elif ended or not follow:
                return

    async def _output_once(self, job_id: int, stream: Stream, offset: int, wait: bool) -> tuple[bytes, bool]:
        query = {"offset": str(offset)}
        if wait:
            query["wait_seconds"] = f"{min(OUTPUT_WAIT_SECONDS, OUTPUT_WAIT_SECONDS_MAX):g}"
        call = Call(method="GET", path=f"{_API}/{job_id}/{stream}", query=query)

        async def once() -> tuple[bytes, bool]:
            async with await self._transport.send(call) as response:
                try:
                    content = await response.read()
                except (aiohttp.ClientError, TimeoutError) as exc:
                    raise MaybeDone(url=call.path, why=str(exc)) from exc
                return content, response.headers.get(JOB_STATE_HEADER, "") in JOB_STATES_ENDED

        return await self._transport.retry(once)

    async def wait(
        self, job_id: int, *, timeout_seconds: float | None = None, on_waiting: OnWaiting = no_waiting
    ) -> Job:
        """The job once it has ended. Raises TimedOut."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = POLL_SECONDS_MIN
        while True:
            job = await self.get(job_id)
            if job.state in JOB_STATES_ENDED:
                return job
            on_waiting(describe(job))
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(what=f"job {job_id} ({describe(job)})", seconds=f"{timeout_seconds:g}")
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.3, POLL_SECONDS_MAX)


def describe(job: Job) -> str:
    """One line: the state, until when it waits, the inputs so far, and what it waits for."""
    inputs = f", {job.inputs.on_disk} of {job.inputs.total} inputs on disk" if job.inputs.total else ""
    why = next(iter(job.waiting), job.reason)
    until = "" if job.expected_seconds is None else f", expected on disk in {show_about(job.expected_seconds)}"
    return f"{job.state}{until}{inputs}" + (f": {why}" if why else "")


def exit_code_of(job: Job) -> int:
    """As a shell would give it: the job's own, 128+n on a signal, 125 when it never ran or was lost."""
    if job.signal is not None:
        return 128 + job.signal
    return 125 if job.exit_code is None else job.exit_code

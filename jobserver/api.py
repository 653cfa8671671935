"""/api/jobs/v1 over HTTP: submit, list, look, cancel, output, explain. Judges who may; decides nothing about staging.

The door relays these calls with the caller's own Authorization; who that is, the door is asked (`whoami`). A job may be
seen and cancelled by its owner and by an admin.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import PurePath

import structlog
from aiohttp import web

from catalog.database import Database
from catalog.errors import BadRequest, Denied, TooLarge, Unauthenticated
from catalog.model import Action, Grant, Principal
from catalog.units import show_about, show_bytes, show_seconds
from client.jobmessages import (
    JOB_ARGV_MAX,
    JOB_STATE_HEADER,
    OUTPUT_WAIT_SECONDS_MAX,
    Job,
    JobInputs,
    Jobs,
    SubmitBody,
    Submitted,
)
from client.messages import Explanation
from client.serving import json_body, json_response
from jobserver import store
from jobserver.batch import BatchSystem, Stream
from jobserver.config import Config
from jobserver.doors import Doors
from jobserver.expand import check_rights, expand
from jobserver.prestaging import Prestager
from jobserver.states import ENDED_STATES, JobState
from jobserver.store import JobRow

log = structlog.get_logger(__name__)

PRIORITY_MAX = 100
PAGE_MAX = 1_000
#: a hundred thousand paths
BODY_BYTES_MAX = 32 << 20
_OUTPUT_LOOK_SECONDS = 0.1


class JobsApi:
    def __init__(
        self, config: Config, database: Database, batch: BatchSystem, doors: Doors, prestager: Prestager
    ) -> None:
        self._config = config
        self._database = database
        self._batch = batch
        self._doors = doors
        self._prestager = prestager

    def add_routes(self, app: web.Application) -> None:
        base = "/api/jobs/v1/jobs"
        app.add_routes(
            [
                web.post(base, self.submit),
                web.get(base, self.list),
                web.get(base + r"/{id:\d+}", self.show),
                web.post(base + r"/{id:\d+}/cancel", self.cancel),
                web.get(base + r"/{id:\d+}/explain", self.explain),
                web.get(base + r"/{id:\d+}/{stream:stdout|stderr}", self.output),
            ]
        )

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """201 {job_id}. Every input is looked up first, with the caller's rights; nothing is queued on a refusal."""
        principal, authorization = await self._principal(request)
        if self._batch.capabilities.runs_as_server and not principal.recorded:
            raise Denied(owner=principal.owner, action="running programs", path="this host")
        body = await json_body(request, SubmitBody, limit_bytes=BODY_BYTES_MAX)
        self._check(body)
        async with self._doors.as_submitter(authorization) as session:
            inputs = await expand(session, body.inputs, inputs_max=self._config.inputs_per_job_max)
        check_rights(inputs, principal.grants, owner=principal.owner)
        wanted = store.Submission(
            owner=principal.owner,
            groups=principal.groups,
            grants=tuple((str(grant.action), grant.prefix) for grant in principal.grants),
            name=body.name or PurePath(body.argv[0]).name,
            argv=tuple(body.argv),
            priority=body.priority,
            whole_volumes=body.whole_volumes,
            inputs=inputs,
        )
        async with self._database.transaction() as connection:
            number = await store.submit(
                connection, wanted, jobs_max=self._config.jobs_live_max, inputs_max=self._config.inputs_live_max
            )
        log.info("job accepted", job=number, owner=principal.owner, inputs=len(inputs))
        self._prestager.wake()
        return json_response(Submitted(job_id=number), status=201)

    def _check(self, body: SubmitBody) -> None:
        if not body.argv or not body.argv[0]:
            raise BadRequest(why="argv is empty")
        if len(body.argv) > JOB_ARGV_MAX:
            raise TooLarge(what="the number of arguments", actual=len(body.argv), limit=JOB_ARGV_MAX)
        size = sum(len(word.encode(errors="surrogatepass")) + 1 for word in body.argv)
        limit = min(self._config.argv_bytes_max, self._batch.capabilities.argv_bytes_max)
        if size > limit:
            raise TooLarge(what="the command line", actual=f"{size} bytes", limit=f"{limit} bytes")
        if any("\0" in word for word in [*body.argv, body.name]):
            raise BadRequest(why="there is a NUL character in it")
        if len(body.name.encode()) > self._config.name_bytes_max:
            raise TooLarge(what="the name", actual="longer", limit=f"{self._config.name_bytes_max} bytes")
        if abs(body.priority) > PRIORITY_MAX:
            raise BadRequest(why=f"priority is {body.priority}, and must lie within -{PRIORITY_MAX} and {PRIORITY_MAX}")

    async def list(self, request: web.Request) -> web.StreamResponse:
        """?state=held&state=running&after=ID&limit=N; an admin sees everybody's."""
        principal, _ = await self._principal(request)
        states = request.query.getall("state", [])
        for state in states:
            if state not in {str(known) for known in JobState}:
                raise BadRequest(why=f"{state!r} is no state of a job; they are {', '.join(map(str, JobState))}")
        limit = _number(request, "limit", default=PAGE_MAX, highest=PAGE_MAX)
        async with self._database.connection() as connection:
            rows = await store.page(
                connection,
                owner=None if principal.is_admin else principal.owner,
                states=states,
                after=_number(request, "after", default=0, highest=2**62),
                limit=limit,
            )
        return json_response(Jobs(jobs=[_shown(row) for row in rows], next=rows[-1].id if len(rows) == limit else None))

    async def show(self, request: web.Request) -> web.StreamResponse:
        return json_response(_shown(await self._job(request)))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Remembered before it is answered; safe to repeat, and nothing to a job that has ended."""
        row = await self._job(request)
        async with self._database.transaction() as connection:
            await store.want_cancel(connection, row.id)
        self._prestager.wake()
        async with self._database.connection() as connection:
            return json_response(_shown(await store.get(connection, row.id)))

    async def explain(self, request: web.Request) -> web.StreamResponse:
        row = await self._job(request)
        shown = _shown(row)
        return json_response(
            Explanation(
                object=f"job:{row.id}",
                kind="job",
                state=str(row.state),
                sentences=explanation(row),
                detail={"owner": row.owner, "name": row.name, "volumes": shown.volumes, "reason": row.reason},
            )
        )

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Bytes from ?offset=N on; with ?wait_seconds=N it waits so long for more. Empty and ended: that was all."""
        row = await self._job(request)
        which: Stream = "stdout" if request.match_info["stream"] == "stdout" else "stderr"
        offset = _number(request, "offset", default=0, highest=2**62)
        give_up_at = time.monotonic() + _seconds(request, "wait_seconds", highest=OUTPUT_WAIT_SECONDS_MAX)
        while True:
            # The state before the bytes: ended then, the bytes are the last.
            async with self._database.connection() as connection:
                row = await store.get(connection, row.id)
            data = b""
            if row.native_id is not None:
                data = await self._batch.output(
                    row.native_id, which, offset=offset, bytes_max=self._config.output_chunk_bytes_max
                )
            if data or row.state in ENDED_STATES or time.monotonic() >= give_up_at:
                break
            await asyncio.sleep(_OUTPUT_LOOK_SECONDS)
        return web.Response(
            body=data, content_type="application/octet-stream", headers={JOB_STATE_HEADER: str(row.state)}
        )

    async def _principal(self, request: web.Request) -> tuple[Principal, str]:
        authorization = request.headers.get("Authorization", "")
        if not authorization:
            raise Unauthenticated(why="there is no Authorization header")
        async with self._doors.as_submitter(authorization) as session:
            found = await session.whoami()
        principal = Principal(
            token_id=found.token_id,
            owner=found.owner,
            groups=tuple(found.groups),
            grants=tuple(Grant(action=Action(action), prefix=prefix) for action, prefix in found.grants),
            recorded=found.recorded,
        )
        return principal, authorization

    async def _job(self, request: web.Request) -> JobRow:
        principal, _ = await self._principal(request)
        number = min(int(request.match_info["id"]), 2**62)
        async with self._database.connection() as connection:
            row = await store.get(connection, number)
        if row.owner != principal.owner and not principal.is_admin:
            raise Denied(owner=principal.owner, action="access", path=f"job {number}")
        return row


def explanation(row: JobRow) -> list[str]:
    """What the job waits for, does, or how it ended; never empty."""
    match row.state:
        case JobState.ACCEPTED:
            return ["it is being handed to the batch system"]
        case JobState.RUNNING:
            return [f"it runs on {row.inputs} inputs, {show_bytes(row.bytes)}"]
        case JobState.DONE:
            return [f"it ended with exit code 0{_after(row)}"]
        case JobState.FAILED:
            return [row.reason + (_after(row) if row.started_at else "; it never ran")]
        case JobState.CANCELLED:
            return [row.reason or ("it was cancelled" + ("" if row.started_at else " before it began"))]
    if row.cancel_wanted:
        return ["it is being cancelled"]
    waiting, seconds = list(row.waiting), _expected(row)
    if seconds is not None:
        # Behind what it waits for, before how far that is.
        waiting.insert(1, f"its inputs are expected on disk in {show_about(seconds)}")
    elif row.state is JobState.STAGING and row.volumes and waiting:
        waiting.insert(1, f"when is not known yet; `capstan explain {row.volumes[0]}` tells what that volume waits for")
    return waiting or ["its inputs are being looked up"]


def _expected(row: JobRow) -> float | None:
    waits = row.state in (JobState.HELD, JobState.STAGING) and not row.cancel_wanted
    return row.expected_seconds if waits else None


def _after(row: JobRow) -> str:
    if row.started_at is None or row.ended_at is None:
        return ""
    return f" after {show_seconds(max(0.0, (row.ended_at - row.started_at).total_seconds()))}"


def _shown(row: JobRow) -> Job:
    return Job(
        id=row.id,
        name=row.name,
        owner=row.owner,
        state=str(row.state),
        argv=list(row.argv),
        reason=row.reason,
        inputs=JobInputs(total=row.inputs, on_disk=row.on_disk, bytes=row.bytes),
        priority=row.priority,
        submitted_at=_time(row.submitted_at),
        released_at=_time(row.released_at),
        started_at=_time(row.started_at),
        ended_at=_time(row.ended_at),
        exit_code=row.exit_code,
        signal=row.signal,
        waiting=[] if row.state in ENDED_STATES or row.state is JobState.RUNNING else explanation(row),
        volumes=list(row.volumes),
        expected_seconds=_expected(row),
    )


def _time(instant: datetime | None) -> float | None:
    return None if instant is None else instant.timestamp()


def _number(request: web.Request, name: str, *, default: int, highest: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 19:
        raise BadRequest(why=f"{name} is {text[:40]!r}, not a number")
    return min(int(text), highest)


def _seconds(request: web.Request, name: str, *, highest: float) -> float:
    text = request.query.get(name, "0")
    try:
        return max(0.0, min(float(text), highest))
    except ValueError as error:
        raise BadRequest(why=f"{name} is {text[:40]!r}, not a number of seconds") from error

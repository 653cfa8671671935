"""Jobs, their inputs, and what is staged for them, in PostgreSQL: the only SQL about held jobs. Decides nothing.

Plain functions on an open connection, inside the caller's transaction. Every change of a state is a guarded UPDATE
that says from which states it may come; the database refuses steps that jobserver/states.py does not allow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.database import copy_rows
from catalog.errors import NotFound, TooBusy
from jobserver.states import ENDED_STATES, MOVES, WAITING_STATES, JobState
from jobserver.tables import SCHEMA, job, job_input, now, staged_file, staging

_IDS = sa.ARRAY(sa.BigInteger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    file: int
    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as it is accepted, its inputs expanded and its submitter's rights with it."""

    owner: str
    groups: tuple[str, ...]
    grants: tuple[tuple[str, str], ...]
    name: str
    argv: tuple[str, ...]
    priority: int
    whole_volumes: bool | None
    inputs: tuple[Input, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    id: int
    name: str
    owner: str
    groups: tuple[str, ...]
    grants: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]
    priority: int
    whole_volumes: bool | None
    state: JobState
    reason: str
    waiting: tuple[str, ...]
    volumes: tuple[str, ...]
    attempt: int
    nonce: str
    native_id: str | None
    tries: int
    inputs: int
    bytes: int
    on_disk: int
    token_id: int | None
    cancel_wanted: bool
    cleaned: bool
    submitted_at: datetime
    released_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    signal: int | None
    waited_seconds: float
    pin_age_seconds: float | None
    #: until its last input is expected on disk; None: not known, or the time is over
    expected_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    file: int
    path: str
    size: int
    staging: int | None
    tries: int
    last_error: str
    retry_in_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStaging:
    id: int
    volume: str
    #: everything on the volume is being brought, so it goes on when nobody waits for `files` any more
    whole: bool
    #: None: it was about to be made when the server ended
    request: str | None
    files: frozenset[int]


# ---------------------------------------------------------------------------------------------- jobs


async def submit(connection: AsyncConnection, wanted: Submission, *, jobs_max: int, inputs_max: int) -> int:
    """The id of the new job. Raises TooBusy when the live jobs, or their inputs, are at their limit."""
    live = (
        await connection.execute(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(job.c.inputs), 0)).where(~job.c.cleaned)
        )
    ).one()
    if live[0] >= jobs_max:
        raise TooBusy(what="the queue of jobs", limit=f"{jobs_max} jobs", retry_after_seconds=60)
    if live[1] + len(wanted.inputs) > inputs_max:
        raise TooBusy(what="the queue of jobs", limit=f"{inputs_max} inputs", retry_after_seconds=60)
    added = await connection.execute(
        sa.insert(job)
        .values(
            name=wanted.name,
            owner=wanted.owner,
            groups=list(wanted.groups),
            grants=[list(grant) for grant in wanted.grants],
            argv=list(wanted.argv),
            priority=wanted.priority,
            whole_volumes=wanted.whole_volumes,
            inputs=len(wanted.inputs),
            bytes=sum(item.size for item in wanted.inputs),
        )
        .returning(job.c.id)
    )
    number = int(added.scalar_one())
    rows = [(number, place, item.file, item.path, item.size) for place, item in enumerate(wanted.inputs)]
    await copy_rows(connection, "job_input", ["job", "number", "file", "path", "size"], rows, schema=SCHEMA)
    return number


async def get(connection: AsyncConnection, number: int) -> JobRow:
    """Raises NotFound."""
    row = (await connection.execute(_select().where(job.c.id == number))).one_or_none()
    if row is None:
        raise NotFound(what=f"job {number}")
    return _row(row)


async def page(
    connection: AsyncConnection, *, owner: str | None, states: Collection[str], after: int, limit: int
) -> list[JobRow]:
    """Jobs with ids above `after` in the order of their ids; of one owner, or all."""
    wanted = _select().where(job.c.id > after).order_by(job.c.id).limit(limit)
    if owner is not None:
        wanted = wanted.where(job.c.owner == owner)
    if states:
        wanted = wanted.where(job.c.state.in_(list(states)))
    return [_row(row) for row in await connection.execute(wanted)]


async def live(connection: AsyncConnection, *, held_max: int) -> list[JobRow]:
    """Every job that still needs something done; of those that are only held, the first `held_max` in their order."""
    going = _select().where(~job.c.cleaned, job.c.state != JobState.HELD)
    held = (
        _select().where(~job.c.cleaned, job.c.state == JobState.HELD)
        .order_by(job.c.cancel_wanted.desc(), job.c.priority.desc(), job.c.id)
        .limit(held_max)
    )  # fmt: skip
    found = [*(await connection.execute(going)), *(await connection.execute(held))]
    return sorted((_row(row) for row in found), key=lambda row: (-row.priority, row.id))


async def inputs_of(connection: AsyncConnection, numbers: Collection[int]) -> dict[int, tuple[Input, ...]]:
    """job -> its inputs in the order in which they were given."""
    rows = await connection.execute(
        sa.select(job_input)
        .where(job_input.c.job == sa.any_(sa.literal(list(numbers), _IDS)))
        .order_by(job_input.c.job, job_input.c.number)
    )
    found: dict[int, list[Input]] = {number: [] for number in numbers}
    for row in rows:
        found[row.job].append(Input(file=row.file, path=row.path, size=row.size))
    return {number: tuple(inputs) for number, inputs in found.items()}


async def move(connection: AsyncConnection, number: int, to: JobState, **values: Any) -> bool:
    """Move the job to a state, with other columns beside; False when the state it has does not allow that step."""
    stamps = {JobState.READY: "ready_at", JobState.RELEASED: "released_at"}
    if to in stamps:
        values.setdefault(stamps[to], now())
    if to in ENDED_STATES:
        values.setdefault("ended_at", now())
        values |= {"waiting": [], "volumes": [], "expected_at": None}
    sources = [state for state, targets in MOVES.items() if to in targets]
    moved = await connection.execute(
        sa.update(job).where(job.c.id == number, job.c.state.in_(sources)).values(state=to, **values)
    )
    return moved.rowcount == 1


async def fail_all(connection: AsyncConnection, reason: str) -> int:
    """Every job that has not ended is failed for this reason; how many."""
    failed = await connection.execute(
        sa.update(job)
        .where(job.c.state.notin_(list(ENDED_STATES)))
        .values(state=JobState.FAILED, reason=reason, ended_at=now(), waiting=[], volumes=[])
    )
    return failed.rowcount


async def set_values(connection: AsyncConnection, number: int, **values: Any) -> None:
    await connection.execute(sa.update(job).where(job.c.id == number).values(**values))


def in_seconds(seconds: float | None) -> sa.ColumnElement[Any] | None:
    """A time so far from now, as a value to set."""
    return None if seconds is None else now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


async def set_pinned(connection: AsyncConnection, number: int, *, pinned: bool) -> None:
    await set_values(connection, number, pinned_at=now() if pinned else None)


async def want_cancel(connection: AsyncConnection, number: int) -> None:
    """Remember that it is to end; the pre-stager does it. Nothing happens to one that has ended."""
    await connection.execute(
        sa.update(job).where(job.c.id == number, job.c.state.notin_(list(ENDED_STATES))).values(cancel_wanted=True)
    )


async def forgettable(connection: AsyncConnection, *, ended_seconds: float, limit: int = 100) -> list[JobRow]:
    """Jobs that ended so long ago that their record and output may go."""
    horizon = now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, ended_seconds)
    wanted = _select().where(job.c.cleaned, job.c.ended_at < horizon).order_by(job.c.ended_at).limit(limit)
    return [_row(row) for row in await connection.execute(wanted)]


async def forget(connection: AsyncConnection, number: int) -> None:
    await connection.execute(sa.delete(job).where(job.c.id == number, job.c.cleaned))


async def counts(connection: AsyncConnection) -> tuple[dict[str, int], float]:
    """Jobs per state, and the age of the oldest that has not begun, in seconds."""
    waiting = job.c.state.in_(list(WAITING_STATES))
    rows = await connection.execute(sa.select(job.c.state, sa.func.count().label("jobs")).group_by(job.c.state))
    by_state = {str(state): 0 for state in JobState} | {row.state: int(row.jobs) for row in rows}
    oldest = await connection.execute(
        sa.select(sa.extract("epoch", now() - sa.func.min(job.c.submitted_at))).where(waiting)
    )
    return by_state, float(oldest.scalar_one() or 0.0)


# ---------------------------------------------------------------------------------------------- what is staged


async def staged_files(connection: AsyncConnection) -> dict[int, StagedFile]:
    """Files that were asked for and have not arrived, as far as we know."""
    pause = sa.func.greatest(sa.extract("epoch", staged_file.c.not_before - now()), 0)
    rows = await connection.execute(sa.select(staged_file, pause.label("pause")))
    return {
        row.file: StagedFile(
            file=row.file,
            path=row.path,
            size=row.size,
            staging=row.staging,
            tries=row.tries,
            last_error=row.last_error,
            retry_in_seconds=float(row.pause),
        )
        for row in rows
    }


async def open_stagings(connection: AsyncConnection) -> list[OpenStaging]:
    files = sa.func.array_remove(sa.func.array_agg(staged_file.c.file), None).label("files")
    rows = await connection.execute(
        sa.select(staging.c.id, staging.c.volume, staging.c.whole, staging.c.request, files)
        .select_from(staging.outerjoin(staged_file, staged_file.c.staging == staging.c.id))
        .group_by(staging.c.id)
        .order_by(staging.c.id)
    )
    return [
        OpenStaging(
            id=row.id, volume=row.volume, whole=row.whole, request=row.request, files=frozenset(row.files or ())
        )
        for row in rows
    ]


async def begin_staging(connection: AsyncConnection, volume: str, files: Sequence[Input], *, whole: bool) -> int:
    """Record that a request for these files is about to be made: before it is, so that a kill leaves its trace."""
    added = await connection.execute(sa.insert(staging).values(volume=volume, whole=whole).returning(staging.c.id))
    number = int(added.scalar_one())
    new = insert(staged_file)
    again = {"staging": new.excluded.staging, "path": new.excluded.path}
    rows = [{"file": item.file, "path": item.path, "size": item.size, "staging": number} for item in files]
    await connection.execute(new.on_conflict_do_update(index_elements=[staged_file.c.file], set_=again), rows)
    return number


async def set_request(connection: AsyncConnection, number: int, request: str) -> None:
    await connection.execute(sa.update(staging).where(staging.c.id == number).values(request=request))


async def end_staging(
    connection: AsyncConnection, number: int, *, failed: Mapping[int, str], postponed: Mapping[int, str], pause: float
) -> None:
    """The request is over. Files in neither mapping are done with; failed ones count a try, postponed ones do not.

    Both are asked for again after a pause of seconds, doubled for each try.
    """
    kept = sa.any_(sa.literal([*failed, *postponed], _IDS))
    await connection.execute(
        sa.delete(staged_file).where(staged_file.c.staging == number, sa.not_(staged_file.c.file == kept))
    )
    for errors, tries in ((failed, 1), (postponed, 0)):
        for error in set(errors.values()):
            files = [file for file, text in errors.items() if text == error]
            seconds = pause * sa.func.power(2, sa.func.least(staged_file.c.tries, 10)) if tries else sa.literal(pause)
            await connection.execute(
                sa.update(staged_file)
                .where(staged_file.c.file == sa.any_(sa.literal(files, _IDS)), staged_file.c.staging == number)
                .values(
                    staging=None,
                    tries=staged_file.c.tries + tries,
                    last_error=error[:500],
                    not_before=now() + sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds),
                )
            )
    await connection.execute(sa.delete(staging).where(staging.c.id == number))


async def drop_staged(connection: AsyncConnection, files: Iterable[int]) -> None:
    """Files that nobody waits for any more, or that arrived: their failed tries are forgotten."""
    await connection.execute(
        sa.delete(staged_file).where(
            staged_file.c.file == sa.any_(sa.literal(list(files), _IDS)), staged_file.c.staging.is_(None)
        )
    )


# ---------------------------------------------------------------------------------------------- shapes


def _select() -> sa.Select[Any]:
    age = sa.extract("epoch", now() - job.c.submitted_at).label("waited_seconds")
    pin_age = sa.extract("epoch", now() - job.c.pinned_at).label("pin_age_seconds")
    expected = sa.extract("epoch", job.c.expected_at - now())
    left = sa.case((expected > 0, expected)).label("expected_seconds")
    return sa.select(job, age, pin_age, left)


def _row(row: Any) -> JobRow:
    values = {name: getattr(row, name) for name in JobRow.__dataclass_fields__}
    return JobRow(
        **values
        | {
            "groups": tuple(row.groups),
            "grants": tuple((action, prefix) for action, prefix in row.grants),
            "argv": tuple(row.argv),
            "waiting": tuple(row.waiting),
            "volumes": tuple(row.volumes),
            "state": JobState(row.state),
            "waited_seconds": float(row.waited_seconds),
            "pin_age_seconds": None if row.pin_age_seconds is None else float(row.pin_age_seconds),
            "expected_seconds": None if row.expected_seconds is None else float(row.expected_seconds),
        }
    )

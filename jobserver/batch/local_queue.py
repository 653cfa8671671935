"""The queue of the local batch system in PostgreSQL: the only SQL of `local`. It starts nothing and reads no files.

Every change is one guarded UPDATE, so that a cancel and a claim that meet cannot both win.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from jobserver.batch import BatchSpec, BatchState, BatchStatus
from jobserver.tables import local_job, now

_BUSY = (BatchState.STARTING, BatchState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyJob:
    """A job that holds a slot."""

    id: int
    key: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    state: BatchState
    cancel_wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended. Times are seconds since the epoch by the host's clock: shown to people, never compared."""

    state: BatchState
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    ended_at: float | None = None


async def add(connection: AsyncConnection, spec: BatchSpec) -> int:
    """The id of the job with this key, new or there already."""
    await connection.execute(
        insert(local_job)
        .values(key=spec.key, name=spec.name, argv=list(spec.argv), environment=dict(spec.environment))
        .on_conflict_do_nothing(index_elements=[local_job.c.key])
    )
    found = await connection.execute(sa.select(local_job.c.id).where(local_job.c.key == spec.key))
    return int(found.scalar_one())


async def release(connection: AsyncConnection, job: int, *, priority: int) -> None:
    await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id == job, local_job.c.state.in_([BatchState.HELD, BatchState.QUEUED]))
        .values(
            state=BatchState.QUEUED, priority=priority, released_at=sa.func.coalesce(local_job.c.released_at, now())
        )
    )


async def hold(connection: AsyncConnection, job: int) -> None:
    await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id == job, local_job.c.state == BatchState.QUEUED)
        .values(state=BatchState.HELD, released_at=None)
    )


async def cancel(connection: AsyncConnection, job: int) -> None:
    waiting = local_job.c.state.in_([BatchState.HELD, BatchState.QUEUED])
    await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id == job, waiting)
        .values(state=BatchState.CANCELLED, cancel_wanted=True, ended_at=sa.extract("epoch", now()))
    )
    await connection.execute(
        sa.update(local_job).where(local_job.c.id == job, local_job.c.state.in_(_BUSY)).values(cancel_wanted=True)
    )


async def cancel_all(connection: AsyncConnection) -> None:
    """Nothing that is here may begin, and what its directory shows to be running is to end.

    Also those that wait go the way of a start: their directories may tell of a start that these rows do not know of.
    """
    for present, target in ((BatchState.HELD, BatchState.QUEUED), (BatchState.QUEUED, BatchState.STARTING)):
        await connection.execute(
            sa.update(local_job).where(local_job.c.state == present).values(state=target, cancel_wanted=True)
        )
    await connection.execute(sa.update(local_job).where(local_job.c.state.in_(_BUSY)).values(cancel_wanted=True))


async def claim(connection: AsyncConnection, slots: int) -> int:
    """Decide the start of up to `slots` queued jobs, the highest priority first, then first released; how many."""
    chosen = (
        sa.select(local_job.c.id)
        .where(local_job.c.state == BatchState.QUEUED)
        .order_by(local_job.c.priority.desc(), local_job.c.released_at, local_job.c.id)
        .limit(slots)
        .with_for_update()
    )
    claimed = await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id.in_(chosen.scalar_subquery()), local_job.c.state == BatchState.QUEUED)
        .values(state=BatchState.STARTING)
    )
    return int(claimed.rowcount)


async def busy(connection: AsyncConnection) -> list[BusyJob]:
    rows = await connection.execute(sa.select(local_job).where(local_job.c.state.in_(_BUSY)).order_by(local_job.c.id))
    return [
        BusyJob(
            id=row.id,
            key=row.key,
            argv=tuple(row.argv),
            environment=row.environment,
            state=BatchState(row.state),
            cancel_wanted=row.cancel_wanted,
        )
        for row in rows
    ]


async def mark_running(connection: AsyncConnection, job: int, started_at: float) -> None:
    await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id == job, local_job.c.state == BatchState.STARTING)
        .values(state=BatchState.RUNNING, started_at=started_at)
    )


async def mark_ended(connection: AsyncConnection, job: int, outcome: Outcome) -> None:
    await connection.execute(
        sa.update(local_job)
        .where(local_job.c.id == job, local_job.c.state.in_(_BUSY))
        .values(
            state=outcome.state,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            reason=outcome.reason,
            ended_at=outcome.ended_at if outcome.ended_at is not None else sa.extract("epoch", now()),
        )
    )


async def statuses(connection: AsyncConnection, jobs: Collection[int]) -> list[BatchStatus]:
    rows = await connection.execute(sa.select(local_job).where(local_job.c.id == sa.any_(sa.literal(list(jobs), _IDS))))
    return [
        BatchStatus(
            native_id=str(row.id),
            key=row.key,
            state=BatchState(row.state),
            exit_code=row.exit_code,
            signal=row.signal,
            reason=row.reason,
            started_at=_instant(row.started_at),
            ended_at=_instant(row.ended_at),
        )
        for row in rows
    ]


async def delete(connection: AsyncConnection, job: int) -> None:
    await connection.execute(sa.delete(local_job).where(local_job.c.id == job))


_IDS = sa.ARRAY(sa.BigInteger)


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

"""What an end means for all who wait: a recall that failed, a mount that is over, a volume whose copies are gone.

Joins the queues with staging, the reservations and the suspect matrix, which the queues themselves know nothing of.
What went wrong on the tape is told to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, events, recalls, reservations, tables
from catalog.database import PLANNER
from catalog.failures import DAY_SECONDS, condemn, give_up, lock_waiters, record
from catalog.sql import load

_QUEUES = {name: sa.text(statement) for name, statement in load("queues").items()}
_MOUNTS = {name: sa.text(statement) for name, statement in load("mounts").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallFailure:
    file_id: int
    code: str
    text: str
    #: what was read, or could not be, is the copy's; else the drive gave up over it, and the copy has done nothing
    of_copy: bool = True


async def fail_recalls(
    connection: AsyncConnection,
    epoch: int,
    failures: Collection[RecallFailure],
    *,
    volume: str,
    attempts_max: int,
    backoff_seconds: float,
    lifetime_seconds: float = DAY_SECONDS,
) -> list[int]:
    """These could not be read from `volume`: another copy at once, this one again after a pause; the files given up.

    A copy that fails too often is broken (see `failures.condemn`). A file is given up, and who waits for it told, when
    no copy is left that is neither broken nor gone; one that merely cannot be reached is waited for.
    """
    told = {failure.file_id: failure for failure in failures}
    if not told:
        return []
    await lock_waiters(connection, sorted(told))
    await _record_failures(connection, epoch, volume, [one for one in told.values() if one.of_copy], lifetime_seconds)
    again: list[int] = []
    abandoned: list[int] = []
    for file_id, failure in sorted(told.items()):
        arguments = {
            "files": [file_id],
            "epoch": epoch,
            "why": f"{failure.code}: {failure.text}"[:1000],
            "backoff_seconds": backoff_seconds,
        }
        row = (await connection.execute(_QUEUES["recalls_fail"], arguments)).one_or_none()
        if row is not None:
            (abandoned if row.abandoned else again).append(file_id)
    served = await recalls.insert_demand(connection, again, slow_volume=volume)
    given_up = [file_id for file_id in again if file_id not in served]
    await recalls.drop_recalls(connection, abandoned)
    await give_up(connection, [(file_id, told[file_id].code, told[file_id].text) for file_id in given_up])
    for code in sorted({one.code for one in told.values() if one.of_copy}):
        guilty = [(one.file_id, f"{code}: {one.text}") for one in told.values() if one.of_copy and one.code == code]
        broken = await condemn(connection, volume, guilty, attempts_max=attempts_max, code=code)
        given_up += broken.given_up
    return given_up


async def _record_failures(
    connection: AsyncConnection, epoch: int, volume: str, failures: Sequence[RecallFailure], lifetime_seconds: float
) -> None:
    mount = tables.mount
    query = sa.select(mount.c.drive, mount.c.library).where(mount.c.epoch == epoch)
    where = (await connection.execute(query)).one_or_none()
    if where is None:
        # Over already: what it had was given back by its end.
        return
    for one in failures:
        await record(
            connection,
            library=where.library,
            drive=where.drive,
            volume=volume,
            kind="read",
            epoch=epoch,
            why=f"{one.code}: {one.text}",
            file=one.file_id,
            lifetime_seconds=lifetime_seconds,
        )


async def end_mount(connection: AsyncConnection, epoch: int, outcome: str) -> bool:
    """The volume is out of the drive: the mount's row goes to history, and what it had taken back to the queues.

    `outcome` is "done", or says what went wrong. False when it was over already. Only to be called once the library
    has reported the volume out of the drive, or when the mount never began. PLANNER is woken by the commit.
    """
    # Excludes every claim and commit of this mount until the row is gone.
    if await connection.scalar(_MOUNTS["lock_for_end"], {"epoch": epoch}) is None:
        return False
    await requeue_epoch(connection, epoch, outcome)
    await connection.execute(_MOUNTS["end"], {"epoch": epoch, "outcome": outcome[:200], "channel": PLANNER})
    await events.emit(connection, "mount.ended", str(epoch), {"outcome": outcome[:200]})
    return True


async def requeue_epoch(connection: AsyncConnection, epoch: int, why: str) -> None:
    """Everything claimed under this epoch goes back to its queue, and its reservations are abandoned."""
    reservation = tables.reservation
    query = sa.select(reservation.c.id).where(reservation.c.epoch == epoch).order_by(reservation.c.id)
    held = (await connection.scalars(query)).all()
    await reservations.abandon(connection, held)
    stranded = await recalls.release_recalls(connection, epoch)
    await archives.release_archives(connection, epoch)
    await give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])


async def unclaim_recalls(
    connection: AsyncConnection, epoch: int, file_ids: Collection[int], reservation_ids: Sequence[int] = ()
) -> None:
    """A mount gives some of its recalls back, and their reservations, while it goes on."""
    await reservations.abandon(connection, reservation_ids)
    stranded = await recalls.unclaim_recalls(connection, file_ids, epoch)
    await give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])


async def unclaim_unknown(connection: AsyncConnection, epoch: int, known: Collection[int]) -> None:
    """What a mount has beside these files and does not know of goes back: the answer of its claim's commit was lost."""
    recall, reservation = tables.recall, tables.reservation
    taken = set((await connection.scalars(sa.select(recall.c.file).where(recall.c.epoch == epoch))).all())
    if not (unknown := sorted(taken - set(known))):
        return
    spaces = sa.select(reservation.c.id).where(reservation.c.epoch == epoch, reservation.c.file.in_(unknown))
    held = (await connection.scalars(spaces.order_by(reservation.c.id))).all()
    await unclaim_recalls(connection, epoch, unknown, held)


async def requeue_orphans(connection: AsyncConnection) -> int:
    """Claims of mounts that are over go back; how many epochs. None should exist: the net below `end_mount`."""
    epochs = (await connection.scalars(_QUEUES["orphaned_epochs"])).all()
    for epoch in epochs:
        await requeue_epoch(connection, epoch, "the mount is over")
    return len(epochs)


async def copies_gone(connection: AsyncConnection, volume: str) -> None:
    """The copies on `volume` cannot be read any more: recalls look elsewhere, or end when there is nothing else."""
    # Whose waiters will be told is locked in the order of locks, before the recalls of all others.
    await lock_waiters(
        connection, list((await connection.scalars(_QUEUES["recalls_only_on"], {"volume": volume})).all())
    )
    stranded = await recalls.withdraw_volume(connection, volume)
    await give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])

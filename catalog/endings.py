"""What an end means for all who wait: a recall that failed, a mount that is over, a volume whose copies are gone.

Joins the queues with staging and the reservations, which the queues themselves know nothing of. It decides only by
counting attempts; what went wrong on the tape is told to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, events, recalls, reservations, stage_items, tables
from catalog.sql import load

_QUEUES = {name: sa.text(statement) for name, statement in load("queues").items()}
_MOUNTS = {name: sa.text(statement) for name, statement in load("mounts").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallFailure:
    file_id: int
    code: str
    text: str


async def fail_recalls(
    connection: AsyncConnection,
    epoch: int,
    failures: Collection[RecallFailure],
    *,
    volume: str,
    attempts_max: int,
    backoff_seconds: float,
) -> list[int]:
    """These could not be read from `volume`: another copy at once, this one again after a pause; the files given up.

    A file is given up, and who waits for it told, after `attempts_max` failures or when no copy is left.
    """
    told = {failure.file_id: failure for failure in failures}
    if not told:
        return []
    # Before the recalls, or a cancel, which holds its request, would meet this in a deadlock.
    await stage_items.lock_requests(connection, sorted(told))
    await connection.execute(_QUEUES["recalls_lock"], {"files": sorted(told)})
    again: list[int] = []
    abandoned: list[int] = []
    given_up: list[int] = []
    for file_id, failure in sorted(told.items()):
        arguments = {
            "files": [file_id],
            "epoch": epoch,
            "why": f"{failure.code}: {failure.text}"[:1000],
            "backoff_seconds": backoff_seconds,
        }
        row = (await connection.execute(_QUEUES["recalls_fail"], arguments)).one_or_none()
        if row is not None:
            (abandoned if row.abandoned else given_up if row.attempts >= attempts_max else again).append(file_id)
    served = await recalls.insert_demand(connection, again, slow_volume=volume)
    given_up += [file_id for file_id in again if file_id not in served]
    await recalls.drop_recalls(connection, abandoned)
    await _give_up(connection, [(file_id, told[file_id].code, told[file_id].text) for file_id in given_up])
    return given_up


async def end_mount(connection: AsyncConnection, epoch: int, outcome: str) -> bool:
    """The volume is out of the drive: the mount's row goes to history, and what it had taken back to the queues.

    `outcome` is "done", or says what went wrong. False when it was over already. Only to be called once the library
    has reported the volume out of the drive, or when the mount never began.
    """
    # Excludes every claim and commit of this mount until the row is gone.
    if await connection.scalar(_MOUNTS["lock_for_end"], {"epoch": epoch}) is None:
        return False
    await requeue_epoch(connection, epoch, outcome)
    await connection.execute(_MOUNTS["end"], {"epoch": epoch, "outcome": outcome[:200]})
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
    await _give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])


async def unclaim_recalls(
    connection: AsyncConnection, epoch: int, file_ids: Collection[int], reservation_ids: Sequence[int] = ()
) -> None:
    """A mount gives some of its recalls back, and their reservations, while it goes on."""
    await reservations.abandon(connection, reservation_ids)
    stranded = await recalls.unclaim_recalls(connection, file_ids, epoch)
    await _give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])


async def requeue_orphans(connection: AsyncConnection) -> int:
    """Claims of mounts that are over go back; how many epochs. None should exist: the net below `end_mount`."""
    epochs = (await connection.scalars(_QUEUES["orphaned_epochs"])).all()
    for epoch in epochs:
        await requeue_epoch(connection, epoch, "the mount is over")
    return len(epochs)


async def copies_gone(connection: AsyncConnection, volume: str) -> None:
    """The copies on `volume` cannot be read any more: recalls look elsewhere, or end when there is nothing else."""
    stranded = await recalls.withdraw_volume(connection, volume)
    await _give_up(connection, [(file_id, "lost", recalls.NO_COPY_TEXT) for file_id in stranded])


async def _give_up(connection: AsyncConnection, failures: Sequence[tuple[int, str, str]]) -> None:
    if failures:
        await recalls.drop_recalls(connection, [file_id for file_id, _, _ in failures])
        await stage_items.fail_items(connection, failures)

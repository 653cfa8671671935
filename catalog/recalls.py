"""Recalls: the one read from tape of one file, however many wait for it, and its demand at every readable copy.

Binding is late: which copy is read is decided by the mount that claims it. Every change of a recall's demand happens
under the lock of its row, taken by an earlier statement (see `sql/queues.sql`). What a failure or the end of a mount
means for those who wait is in `catalog.endings`, not here.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.errors import StaleEpoch
from catalog.model import CopyPlace
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("queues").items()}
#: a cache server that has been silent longer does not count as live
HEARTBEAT_SECONDS_MAX = 15.0


class Answer(enum.StrEnum):
    #: a recall is under way for it, new or joined
    QUEUED = "queued"
    ON_DISK = "on_disk"
    #: no copy that could ever be read, and none on disk
    NO_COPY = "no_copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallAnswer:
    answer: Answer
    #: for NO_COPY, what to tell the user
    error: str = ""

    @property
    def no_copy(self) -> bool:
        return self.answer is Answer.NO_COPY


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRecall:
    """A recall that a volume could serve, and where its file lies there."""

    file_id: int
    tape_file: int
    first_block: int
    byte_offset: int
    #: of the file
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRecall:
    file_id: int
    path: str
    size: int
    adler32: str
    place: CopyPlace
    #: how often it has failed before
    attempts: int


async def request_recalls(
    connection: AsyncConnection,
    files: Collection[int],
    *,
    owner: str,
    group: str,
    activity: str = "",
    priority: int = 50,
    cohorts: Mapping[int, int] | None = None,
) -> dict[int, RecallAnswer]:
    """Have these files brought to disk; the answer per file. Set-based; safe to repeat.

    `cohorts` (file -> number) says which are of use only together. A recall keeps the cohort that first asked for it.

    The caller has written (or writes in this transaction) the stage items that wait: only they keep a recall alive.
    A file whose readable copies are all in libraries that are down, or on disabled volumes, is QUEUED: it waits.
    """
    on_disk = await _on_disk(connection, files)
    wanted = [file for file in sorted(set(files)) if file not in on_disk]
    arguments = {
        "files": wanted,
        "cohorts": [(cohorts or {}).get(file, 0) for file in wanted],
        "owner": owner,
        "group": group,
        "activity": activity,
        "priority": priority,
    }
    rows = (await connection.execute(_SQL["recalls_insert"], arguments)).all() if wanted else []
    queued = {row.file for row in rows}
    fresh = [row.file for row in rows if row.fresh]
    # The insert may have waited for a recall of the same file that just ended on disk.
    arrived = await _on_disk(connection, fresh)
    if arrived:
        await _remove(connection, sorted(arrived))
    wanted_now = [file for file in fresh if file not in arrived]
    served = await insert_demand(connection, wanted_now)
    # Its last copy was found broken, or its volume went, between the two statements.
    hopeless = [file for file in wanted_now if file not in served]
    await _remove(connection, hopeless)
    queued.difference_update(hopeless)
    answers: dict[int, RecallAnswer] = {}
    for file in files:
        if file in on_disk or file in arrived:
            answers[file] = RecallAnswer(answer=Answer.ON_DISK)
        elif file in queued:
            answers[file] = RecallAnswer(answer=Answer.QUEUED)
        else:
            answers[file] = RecallAnswer(answer=Answer.NO_COPY, error=NO_COPY_TEXT)
    return answers


NO_COPY_TEXT = "there is no copy left that can be read, neither on disk nor on tape"


async def abandon_recalls(connection: AsyncConnection, file_ids: Collection[int]) -> None:
    """For files that somebody has stopped waiting for: where no live stage item is left, the recall ends.

    A queued one goes at once; one that a mount has is flagged, and its session drops it.
    """
    if not file_ids:
        return
    await _lock(connection, file_ids)
    rows = (await connection.execute(_SQL["recalls_without_waiter"], {"files": sorted(set(file_ids))})).all()
    await _remove(connection, [row.file for row in rows if row.state == "queued"])
    claimed = [row.file for row in rows if row.state == "claimed"]
    if claimed:
        await connection.execute(_SQL["recalls_abandon"], {"files": claimed})


async def wanted_recalls(
    connection: AsyncConnection, volume: str, *, limit: int, after: tuple[int, int] = (0, 0)
) -> list[WantedRecall]:
    """What could be claimed of `volume` now, at most `limit`, by position, from `after` (block, byte offset) on."""
    values = {"volume": volume, "limit": limit, "after_block": after[0], "after_offset": after[1]}
    return [
        WantedRecall(
            file_id=row.file, tape_file=row.tape_file, first_block=row.first_block, byte_offset=row.byte_offset,
            bytes=row.bytes,
        )
        for row in await connection.execute(_SQL["recalls_wanted"], values)
    ]  # fmt: skip


async def claim_recalls(
    connection: AsyncConnection, volume: str, epoch: int, files: Sequence[int]
) -> list[ClaimedRecall]:
    """Take the recalls of these files for the mount, from `volume`, and return them in the order of `files`.

    A compare-and-set per recall: what is not wanted there any more, or is taken by another mount at the same time, is
    not among them. Raises StaleEpoch.
    """
    await fence(connection, epoch)
    values = {"volume": volume, "files": list(files)}
    picked = list((await connection.scalars(_SQL["recalls_pick"], values)).all()) if files else []
    if not picked:
        return []
    place_of = {file: place for place, file in enumerate(files)}
    rows = await connection.execute(_SQL["recalls_claim"], {"volume": volume, "epoch": epoch, "files": picked})
    claimed = [
        ClaimedRecall(
            file_id=row.file_id,
            path=row.path,
            size=row.size,
            adler32=row.adler32,
            attempts=row.attempts,
            place=CopyPlace(
                copy_id=row.copy_id,
                volume=row.volume,
                generation=row.generation,
                library=row.library,
                tape_file=row.tape_file,
                first_block=row.first_block,
                byte_offset=row.byte_offset,
                length=row.length,
            ),
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda one: place_of[one.file_id])


async def finish_recalls(connection: AsyncConnection, file_ids: Collection[int]) -> None:
    """The files are on disk: their recalls end. To be called before the waiters are told, so that none joins between.

    Whoever joins after this waits for the transaction, and then finds the replica.
    """
    await drop_recalls(connection, file_ids)


async def drop_recalls(connection: AsyncConnection, file_ids: Collection[int]) -> None:
    """End these recalls whatever their state, because nobody can wait for them any more."""
    if file_ids:
        await _lock(connection, file_ids)
        await _remove(connection, sorted(set(file_ids)))


async def release_recalls(connection: AsyncConnection, epoch: int) -> list[int]:
    """Everything that a mount had taken goes back in the queue; the files that no copy is left for.

    Recalls that were abandoned end here.
    """
    rows = (await connection.execute(_SQL["recalls_of_epoch"], {"epoch": epoch})).all()
    return await requeue_locked(
        connection,
        wanted=[row.file for row in rows if not row.abandoned],
        abandoned=[row.file for row in rows if row.abandoned],
    )


async def unclaim_recalls(connection: AsyncConnection, file_ids: Collection[int], epoch: int) -> list[int]:
    """Some of what a mount had taken goes back, for instance for want of space; the files that no copy is left for."""
    if not file_ids:
        return []
    rows = (await connection.execute(_SQL["recalls_of_epoch"], {"epoch": epoch})).all()
    given_back = set(file_ids)
    mine = [row for row in rows if row.file in given_back]
    return await requeue_locked(
        connection,
        wanted=[row.file for row in mine if not row.abandoned],
        abandoned=[row.file for row in mine if row.abandoned],
    )


async def requeue_locked(connection: AsyncConnection, *, wanted: Sequence[int], abandoned: Sequence[int]) -> list[int]:
    """For locked rows: `wanted` back to the queue, `abandoned` ended; the files that no copy is left for."""
    await _remove(connection, abandoned)
    if not wanted:
        return []
    await connection.execute(_SQL["recalls_release"], {"files": list(wanted)})
    served = await insert_demand(connection, wanted)
    return [file for file in wanted if file not in served]


async def insert_demand(
    connection: AsyncConnection, files: Collection[int], *, slow_volume: str | None = None
) -> set[int]:
    """Demand at every copy of these queued recalls, whose rows are locked; the files that have any."""
    if not files:
        return set()
    arguments = {"files": sorted(files), "slow_volume": slow_volume}
    return set((await connection.scalars(_SQL["demand_insert"], arguments)).all())


async def abandoned_of(connection: AsyncConnection, epoch: int) -> list[int]:
    """What this mount has and nobody waits for any more."""
    statement = sa.text("select file from recall where epoch = :epoch and abandoned order by file")
    return list((await connection.scalars(statement, {"epoch": epoch})).all())


async def anybody_waits(connection: AsyncConnection, volume: str) -> bool:
    """Whether a recall that may be served now wants `volume`."""
    statement = sa.text("select exists (select from demand where volume = :volume and created_at <= capstan_now())")
    return bool(await connection.scalar(statement, {"volume": volume}))


async def withdraw_volume(connection: AsyncConnection, volume: str, *, limit: int = 100_000) -> list[int]:
    """The copies on `volume` are gone: its demand goes. The files that no other copy is left for (recalls kept)."""
    files = (await connection.scalars(_SQL["recalls_of_volume"], {"volume": volume, "limit": limit})).all()
    if not files:
        return []
    arguments = {"volume": volume, "files": list(files)}
    removed = (await connection.scalars(_SQL["demand_remove_of_volume"], arguments)).all()
    return list((await connection.scalars(_SQL["recalls_stranded"], {"files": sorted(set(removed))})).all())


async def offer_volume(connection: AsyncConnection, volume: str) -> int:
    """A volume came back into use: queued recalls of files that have a copy there may be served by it too."""
    files = (await connection.scalars(_SQL["recalls_ripe_for_volume"], {"volume": volume})).all()
    return len(await insert_demand(connection, files))


async def retry_recalls(connection: AsyncConnection) -> int:
    """Recalls in back-off are wanted at once."""
    return (await connection.execute(_SQL["demand_retry"])).rowcount


async def fence(connection: AsyncConnection, epoch: int) -> str:
    """Keep the mount of this epoch from ending until the transaction does; its volume. Raises StaleEpoch."""
    volume = await connection.scalar(_SQL["fence"], {"epoch": epoch})
    if volume is None:
        raise StaleEpoch(epoch=epoch)
    return str(volume)


async def _on_disk(connection: AsyncConnection, files: Collection[int]) -> set[int]:
    if not files:
        return set()
    arguments = {"files": sorted(set(files)), "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}
    return set((await connection.scalars(_SQL["recalls_on_disk"], arguments)).all())


async def _lock(connection: AsyncConnection, files: Collection[int]) -> None:
    await connection.execute(_SQL["recalls_lock"], {"files": sorted(set(files))})


async def _remove(connection: AsyncConnection, files: Sequence[int]) -> None:
    if files:
        await connection.execute(_SQL["recalls_remove"], {"files": list(files)})

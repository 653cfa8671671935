"""The suspect matrix: what failed with which volume in which drive, and the copies that it condemns.

Keeps evidence and gives it out again; whom it points at is `tapeserver.blame`'s to judge. A copy that is condemned is
broken: from that moment it counts no more, and what is missing then is made again, all in one transaction. Of mounts
and their ends it knows nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, events, recalls, repairs, stage_items
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("failures").items()}
_LOCKS = {name: sa.text(statement) for name, statement in load("queues").items()}

Kind = Literal["load", "readback", "read", "write", "stuck"]
#: kinds that say something of reading from a volume, and of writing to it
READING: tuple[Kind, ...] = ("load", "readback", "read", "stuck")
WRITING: tuple[Kind, ...] = ("load", "readback", "write", "stuck")
DAY_SECONDS = 86_400.0
#: a row stays so long after it has ceased to count
KEEP_SECONDS = 90 * DAY_SECONDS
#: a drive that no tape server has reported for longer cannot be asked for a second opinion
DRIVE_SECONDS_MAX = 30.0
#: what repairs are asked for as
REPAIR = "repair"
_REASON_LENGTH_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectPair:
    """A volume and a drive that failed together, and how often, as far as it still counts."""

    volume: str
    drive: str
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A pair of the matrix as an operator sees it; `files` of its failures were of single files."""

    library: str
    volume: str
    drive: str
    failures: int
    files: int
    kinds: list[str]
    last_at: datetime
    expires_at: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What happened before with a drive and a volume, as far as it still counts."""

    #: with which the drive failed, at whatever
    volumes_in_drive: frozenset[str]
    #: in which the volume failed, at what is asked about
    drives_of_volume: frozenset[str]
    #: of the volume, that failed so
    mounts_of_volume: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What became of copies that were condemned."""

    #: whose copies on the volume are broken, without those that were before
    files: list[int]
    #: of these the recalls ended: no copy was left, and who waited was told
    given_up: list[int]


async def record(
    connection: AsyncConnection,
    *,
    library: str,
    drive: str,
    volume: str,
    kind: Kind,
    epoch: int,
    why: str,
    file: int | None = None,
    lifetime_seconds: float = DAY_SECONDS,
) -> None:
    """`kind` failed with `volume` in `drive` under the mount `epoch`; with `file`, only its copy is concerned."""
    arguments = {
        "library": library,
        "drive": drive,
        "volume": volume,
        "kind": kind,
        "epoch": epoch,
        "file": file,
        "why": why[:_REASON_LENGTH_MAX],
        "lifetime_seconds": lifetime_seconds,
    }
    await connection.execute(_SQL["record"], arguments)


async def evidence(connection: AsyncConnection, *, drive: str, volume: str, kinds: Collection[Kind]) -> Evidence:
    """What still counts against the two: of the drive any failure, of the volume those of `kinds`."""
    rows = (await connection.execute(_SQL["evidence"], {"drive": drive, "volume": volume})).all()
    of_volume = [row for row in rows if row.volume == volume and row.whole and row.kind in kinds]
    return Evidence(
        volumes_in_drive=frozenset(row.volume for row in rows if row.drive == drive),
        drives_of_volume=frozenset(row.drive for row in of_volume),
        mounts_of_volume=len({row.epoch for row in of_volume}),
    )


async def suspect_pairs(connection: AsyncConnection, library: str) -> list[SuspectPair]:
    """Pairs that a planner avoids while another drive is there, by volume and drive."""
    rows = await connection.execute(_SQL["suspect_pairs"], {"library": library})
    return [SuspectPair(**row) for row in rows.mappings()]


async def matrix(connection: AsyncConnection, drive: str | None = None, volume: str | None = None) -> list[Suspicion]:
    """What counts now against a drive, a volume, or anything, a line for each pair."""
    rows = await connection.execute(_SQL["matrix"], {"drive": drive, "volume": volume})
    return [Suspicion(**row) for row in rows.mappings()]


async def clear(connection: AsyncConnection, *, drive: str | None = None, volume: str | None = None) -> int:
    """Nothing counts any more against this drive, this volume, or this pair; how many failures did."""
    if drive is None and volume is None:
        raise ValueError("name a drive or a volume")
    return (await connection.execute(_SQL["clear"], {"drive": drive, "volume": volume})).rowcount


async def take_back(connection: AsyncConnection, *, drive: str, volume: str, kinds: Collection[Kind]) -> None:
    """A mount of the pair went well at `kinds`: what was held against the pair as a whole is forgotten."""
    await connection.execute(_SQL["take_back"], {"drive": drive, "volume": volume, "kinds": sorted(kinds)})


async def suspected_files(connection: AsyncConnection, volume: str) -> set[int]:
    """Files whose copy on `volume` has failed lately: reading one well is news."""
    return set((await connection.scalars(_SQL["suspected_files"], {"volume": volume})).all())


async def acquit_copies(connection: AsyncConnection, *, drive: str, volume: str, files: Collection[int]) -> list[str]:
    """These copies were read well in `drive`; the drives in which they had failed, and which are now to blame."""
    if not files:
        return []
    arguments = {"drive": drive, "volume": volume, "files": sorted(files)}
    drives = (await connection.scalars(_SQL["acquit_copies"], arguments)).all()
    return sorted({name for name in drives if name != drive})


async def condemn(
    connection: AsyncConnection,
    volume: str,
    reasons: Sequence[tuple[int, str]],
    *,
    attempts_max: int,
    code: str = "lost",
) -> Broken:
    """Break those of these copies, which have just failed, against which there is evidence enough.

    Enough: failures in two drives; `attempts_max` of them where only one drive can be asked, else twice as many.
    """
    arguments = {
        "volume": volume,
        "files": sorted({file for file, _ in reasons}),
        "attempts_max": attempts_max,
        "drive_seconds_max": DRIVE_SECONDS_MAX,
    }
    guilty = set((await connection.scalars(_SQL["condemned"], arguments)).all())
    return await break_copies(connection, volume, [one for one in reasons if one[0] in guilty], code=code)


async def break_copies(
    connection: AsyncConnection, volume: str, reasons: Sequence[tuple[int, str]], *, code: str = "lost"
) -> Broken:
    """The copies of these (file, why) on `volume` are broken.

    They count no more, and their demand goes; a recall with no copy left ends, and who waits is told `code`. What is
    missing is made again: from disk at once, else after a recall from another copy. To be called before anything else
    in its transaction holds a recall.
    """
    if not reasons:
        return Broken(files=[], given_up=[])
    files = sorted({file for file, _ in reasons})
    await lock_waiters(connection, files)
    arguments = {"volume": volume, "files": [file for file, _ in reasons], "reasons": [why for _, why in reasons]}
    broken = sorted(set((await connection.scalars(_SQL["break_copies"], arguments)).all()))
    if not broken:
        return Broken(files=[], given_up=[])
    await connection.execute(_SQL["demand_of_broken"], {"volume": volume, "files": broken})
    await connection.execute(_SQL["clear_files"], {"volume": volume, "files": broken})
    stranded = (await connection.scalars(_SQL["recalls_without_demand"], {"files": broken})).all()
    told = dict(reasons)
    await give_up(connection, [(file, code, f"{recalls.NO_COPY_TEXT}; {told[file]}") for file in stranded])
    await archives.enqueue_archives(connection, broken)
    await request_repairs(connection, broken)
    await events.emit_many(
        connection, [("copy.broken", volume, {"file_id": file, "why": told[file]}) for file in broken]
    )
    return Broken(files=broken, given_up=sorted(stranded))


async def mend_copies(connection: AsyncConnection, volume: str, files: Collection[int] | None = None) -> list[int]:
    """Copies on `volume` that were broken are good after all (all of them, without `files`); their files.

    An archive that was queued in their place stays: one copy too many does no harm.
    """
    arguments = {"volume": volume, "files": None if files is None else sorted(files)}
    mended = sorted((await connection.scalars(_SQL["mend_copies"], arguments)).all())
    if mended:
        await recalls.offer_volume(connection, volume)
    return mended


async def request_repairs(connection: AsyncConnection, files: Collection[int]) -> int:
    """Recalls, for which Capstan itself waits, of those files that lack a copy and are on no disk; how many.

    Their arrival queues what is missing (`archives.repair_arrivals`). Safe to repeat. The caller wakes PLANNER.
    """
    wanted = list((await connection.scalars(_SQL["worth_repairing"], {"files": sorted(set(files))})).all())
    # The pin may end at once: a file that lacks a copy is not evicted.
    await repairs.request(connection, wanted, activity=REPAIR, lifetime_seconds=1.0)
    return len(wanted)


async def forget(connection: AsyncConnection, *, keep_seconds: float = KEEP_SECONDS, limit: int = 100_000) -> int:
    """Rows that have not counted for so long go, and repairs that are over; how many rows. Safe to repeat."""
    for one in await repairs.ahead(connection, REPAIR):
        if one.over:
            await repairs.end(connection, one)
    return (await connection.execute(_SQL["forget"], {"keep_seconds": keep_seconds, "limit": limit})).rowcount


async def lock_waiters(connection: AsyncConnection, files: Sequence[int]) -> None:
    """Hold these files, the requests that wait for them, then their recalls: in this order everywhere, or a removal,
    which holds its file, or a cancel, which holds its request, would be met in a deadlock."""
    await connection.execute(_SQL["hold_files"], {"files": sorted(files)})
    await stage_items.lock_requests(connection, files)
    await connection.execute(_LOCKS["recalls_lock"], {"files": list(files)})


async def give_up(connection: AsyncConnection, failures: Sequence[tuple[int, str, str]]) -> None:
    """(file, stable error code, sentence): the recalls end, and whoever waits for them is told."""
    if failures:
        await recalls.drop_recalls(connection, [file for file, _, _ in failures])
        await stage_items.fail_items(connection, failures)

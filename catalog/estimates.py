"""When is it expected? What the planners say of volumes and pools, and what follows for files and requests.

The planner of a library publishes under its lease; everybody reads. Nothing is told of what no planner has looked at
lately, and what is told is an expectation. How it is worked out is `tapeserver.estimates`'.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.model import InHand, ReadingTime, WritingTime
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("estimates").items()}

#: the state of a recall, and of an archive, that a mount has
CLAIMED = "claimed"
#: what no planner has confirmed for so long is not told
LOOK_SECONDS_MAX = 30.0
#: of a request with more files waiting nothing is told: its files would be looked through at each question
REQUEST_FILES_MAX = 100_000
#: what has moved by less than this part of the time that is left, or by less than these seconds, is not written anew
TOLERANCE_PART, TOLERANCE_SECONDS = 0.1, 5.0
ROWS_AT_ONCE = 1000
#: what all mounts have in hand is counted by no more rows than this, and of one by no more than that
IN_HAND_ROWS_MAX, MOUNT_ROWS_MAX = 100_000, 10_000
#: who asks again and again does so after this part of the time that is left, and after so long at most
AGAIN_PART, AGAIN_SECONDS_MAX = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of a file that is to be read: its recall's state, and the seconds until it is expected; None: not known."""

    state: str
    seconds: float | None


async def said(connection: AsyncConnection, library: str) -> dict[str, ReadingTime]:
    """What stands there now for a library's volumes, old or not; seconds since 1970."""
    rows = await connection.execute(_SQL["said"], {"library": library})
    return {row.volume: _reading(row) for row in rows}


def changed(before: Mapping[str, ReadingTime], found: Mapping[str, ReadingTime], now: float) -> dict[str, ReadingTime]:
    """Of what is found, what differs from before by more than anybody would care about."""
    return {volume: one for volume, one in found.items() if _differs(before.get(volume), one, now)}


def _differs(before: ReadingTime | None, found: ReadingTime, now: float) -> bool:
    if before is None or before.mounted is not found.mounted:
        return True
    for old, new in ((before.begins, found.begins), (before.ends, found.ends)):
        if abs(new - old) > max(TOLERANCE_PART * (new - now), TOLERANCE_SECONDS):
            return True
    return False


async def publish(
    connection: AsyncConnection, library: str, changes: Mapping[str, ReadingTime], *, gone: Collection[str]
) -> None:
    """What has changed, what is expected no more, and that the rest still holds. Under the lease of the planner."""
    volumes = list(changes)
    # In parts: a process that has others waiting for it encodes no long list at a time.
    for first in range(0, len(volumes), ROWS_AT_ONCE):
        part = volumes[first : first + ROWS_AT_ONCE]
        times = [changes[volume] for volume in part]
        values = {
            "library": library,
            "volumes": part,
            "begins": [one.begins for one in times],
            "readings": [one.reading for one in times],
            "files": [int(one.files) for one in times],
            "mounted": [one.mounted for one in times],
            "in_hand": [one.in_hand for one in times],
            "in_hand_files": [int(one.in_hand_files) for one in times],
        }
        await connection.execute(_SQL["publish"], values)
    if gone:
        await connection.execute(_SQL["withdraw"], {"library": library, "volumes": sorted(gone)})
    await connection.execute(_SQL["looked"], {"library": library})


async def publish_pools(connection: AsyncConnection, library: str, pools: Mapping[str, WritingTime]) -> None:
    """What is expected of the library's pools, all of it. With `publish`, under the same lease."""
    times = [pools[pool] for pool in sorted(pools)]
    values = {
        "library": library,
        "pools": sorted(pools),
        "begins": [one.begins for one in times],
        "in_hand": [one.in_hand for one in times],
        "writings": [one.writing for one in times],
        "files": [int(one.files) for one in times],
        "urgent": [int(one.urgent) for one in times],
        "oldest": [one.oldest for one in times],
        "newest": [one.newest for one in times],
    }
    await connection.execute(_SQL["publish_pools"], values)


async def in_hand(connection: AsyncConnection, epochs: Collection[int]) -> dict[int, InHand]:
    """epoch -> what that mount has claimed and not done; of a mount that has very much, at least so much."""
    if not epochs:
        return {}
    rows_max = min(MOUNT_ROWS_MAX, IN_HAND_ROWS_MAX // len(epochs))
    rows = await connection.execute(_SQL["in_hand"], {"epochs": sorted(epochs), "rows_max": rows_max})
    return {
        row.epoch: InHand(row.files_read, row.bytes_read, row.files_written, row.bytes_written) for row in rows
    }  # fmt: skip


async def of_volumes(connection: AsyncConnection, vids: Collection[str] | None = None) -> dict[str, ReadingTime]:
    """What is known of these volumes, or of all; seconds from now."""
    values = {"volumes": None if vids is None else sorted(vids), "seconds": LOOK_SECONDS_MAX}
    return {row.volume: _reading(row) for row in await connection.execute(_SQL["of_volumes"], values)}


async def of_pools(connection: AsyncConnection, pools: Collection[str] | None = None) -> dict[str, WritingTime]:
    """What is known of these pools, or of all; seconds from now."""
    values = {"pools": None if pools is None else sorted(pools), "seconds": LOOK_SECONDS_MAX}
    return {row.pool: _writing(row, row.urgent) for row in await connection.execute(_SQL["of_pools"], values)}


async def of_files(connection: AsyncConnection, file_ids: Collection[int]) -> dict[int, Expectation]:
    """What is known of those that wait to be read, or are being read."""
    if not file_ids:
        return {}
    rows = await connection.execute(_SQL["of_files"], {"files": sorted(file_ids), "seconds": LOOK_SECONDS_MAX})
    return {row.file: Expectation(row.state, _seconds(row, 1, claimed=row.state == CLAIMED)) for row in rows}


async def of_archives(connection: AsyncConnection, file_ids: Collection[int]) -> dict[int, dict[int, float | None]]:
    """Of each file that waits to be written, or is being written: copy -> seconds until it is expected to be safe on
    tape; None: not known."""
    if not file_ids:
        return {}
    found: dict[int, dict[int, float | None]] = {}
    values = {"files": sorted(file_ids), "seconds": LOOK_SECONDS_MAX}
    for row in await connection.execute(_SQL["of_archives"], values):
        seconds: float | None = None
        if row.begins is not None:
            pool = _writing(row, row.wanted)
            if row.state == CLAIMED:
                seconds = pool.handed()
            elif not _found_before(pool, urgent=row.urgent):
                seconds = pool.safe(row.came, urgent=row.urgent)
        found.setdefault(row.file, {})[row.copy_number] = (
            None if seconds is None else max(0.0, seconds, row.not_before if row.state != CLAIMED else 0.0)
        )
    return found


def _found_before(pool: WritingTime, *, urgent: bool) -> bool:
    """Somebody waits since this was found: its pool collects no longer, and nobody has looked when its turn is now."""
    return urgent and not pool.urgent and pool.begins > 0


def last_of(copies: Mapping[int, float | None]) -> float | None:
    """When all copies of a file are expected to be there; None while of one nothing is known."""
    known = [seconds for seconds in copies.values() if seconds is not None]
    return max(known) if known and len(known) == len(copies) else None


async def of_request(connection: AsyncConnection, request_id: int) -> float | None:
    """Seconds until the last file of a request is expected; None when of any that waits nothing is known."""
    request = tables.stage_request
    state, live = (
        await connection.execute(sa.select(request.c.state, request.c.items_live).where(request.c.id == request_id))
    ).one_or_none() or ("", 0)
    if state != "started" or not 0 < live <= REQUEST_FILES_MAX:
        return None
    values = {"request": request_id, "seconds": LOOK_SECONDS_MAX}
    known = []
    for row in await connection.execute(_SQL["of_request"], values):
        seconds = _seconds(row, row.wanted, claimed=row.claimed)
        if seconds is not None:
            known.append(seconds)
        elif not row.claimed:
            return None
    return max(known, default=None)


def again_after(seconds: float, expected: float | None) -> float:
    """When to ask again for what would else be asked for in `seconds`: a small part of the wait is lost at most."""
    if expected is None:
        return seconds
    return max(1.0, min(seconds, expected), min(AGAIN_PART * expected, AGAIN_SECONDS_MAX))


def _seconds(row: sa.Row[Any], files: int, *, claimed: bool) -> float | None:
    if row.begins is None:
        return None
    time = _reading(row)
    return max(0.0, time.handed(files) if claimed else time.done(files))


def _reading(row: sa.Row[Any]) -> ReadingTime:
    return ReadingTime(row.begins, row.reading, row.files, row.mounted, row.in_hand, row.in_hand_files)


def _writing(row: sa.Row[Any], urgent: int) -> WritingTime:
    return WritingTime(row.begins, row.in_hand, row.writing, row.files, urgent, row.oldest, row.newest)

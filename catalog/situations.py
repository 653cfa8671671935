"""What a planner looks at before it decides, and the rows that it writes: in few round trips, by indexes alone.

What waits is told by the counters (`catalog.counters`); here is what is looked at again: drives, mounts and how they
ended, the pools that are written to, volumes whose state has changed. What follows from it is the tape server's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity
from catalog.errors import NotFound
from catalog.leases import Lease
from catalog.model import DriveView, MountView, PlannedMount
from catalog.reservations import HEARTBEAT_SECONDS_MAX
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("situations").items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEnd:
    """How a mount ended. Times are seconds since 1970 by the catalog's clock, here and below."""

    epoch: int
    drive: str
    volume: str
    outcome: str
    files: int
    at: float
    #: something failed under it that counts against the pair, were it the copy of one file
    pair_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One library at one moment."""

    now: float
    library_state: str
    library_reason: str
    drives: list[DriveView]
    mounts: list[MountView]
    #: of the mounts that were asked about, those that are over
    ends: list[SeenEnd]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPool:
    name: str
    #: filled at once; None: as the tape server says
    volumes_open_max: int | None
    #: of the archives that can be written now; None: there is none
    oldest_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVolume:
    vid: str
    #: the last change of its state, or of what it is said to be made of
    changed_at: datetime
    state: str
    reason: str
    pool: str | None
    capacity_bytes: int
    written_bytes: int
    #: as an operator, or its library, names it
    medium: str | None


async def look(
    connection: AsyncConnection, library: str, epochs: Collection[int], *, silence_seconds_max: float
) -> Situation:
    """The library now; `epochs`: mounts whose ends are wanted if they are over. Raises NotFound."""
    arguments = {"library": library, "epochs": sorted(epochs), "silence_seconds_max": silence_seconds_max}
    document: str | None = await connection.scalar(_SQL["look"], arguments)
    if document is None:
        raise NotFound(what=f"library {library}")
    return msgspec.json.decode(document, type=Situation)


async def carry_out(
    connection: AsyncConnection, lease: Lease, wanted: Sequence[PlannedMount], late: Mapping[int, str]
) -> list[MountView]:
    """Write the rows of these mounts; those that got one. A drive or a volume that is taken by now, is not up or not
    usable, or has no work any more, gets none. `late`: epoch -> why that mount is to stop; a reason that it has already
    stays. One statement, under the lease: nothing is written by who has lost it."""
    if not wanted and not late:
        return []
    arguments = {
        "lease": lease.name,
        "holder": lease.holder,
        "number": lease.number,
        "drives": [one.drive for one in wanted],
        "volumes": [one.volume for one in wanted],
        "pools": [one.pool for one in wanted],
        "purposes": [one.purpose for one in wanted],
        "groups": [one.group for one in wanted],
        "codes": [one.reason_code for one in wanted],
        "arguments": [json.dumps(dict(one.reason_arguments)) for one in wanted],
        "late": list(late),
        "whys": list(late.values()),
    }
    rows = (await connection.execute(_SQL["carry_out"], arguments)).all()
    return [
        MountView(
            epoch=row.epoch,
            drive=row.drive,
            volume=row.volume,
            pool=row.pool,
            purpose=row.purpose,
            group=row.grp,
            began_at=row.began_at,
        )
        for row in rows
    ]


async def ripe(connection: AsyncConnection, volumes: Collection[str]) -> dict[str, float]:
    """volume -> when the next of its recalls may be read; one without any recall is missing."""
    rows = await connection.execute(_SQL["ripe"], {"volumes": sorted(volumes)})
    return {row.volume: row.at for row in rows}


async def pools_seen(connection: AsyncConnection, pools: Collection[str]) -> list[SeenPool]:
    """By name."""
    arguments = {"pools": sorted(pools), "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}
    rows = (await connection.execute(_SQL["pools"], arguments)).mappings()
    return [SeenPool(**row) for row in rows]


async def volumes_seen(
    connection: AsyncConnection,
    library: str,
    *,
    vids: Collection[str] | None = None,
    after: tuple[datetime, str] = (datetime(1970, 1, 1, tzinfo=UTC), ""),
    limit: int = 10_000,
) -> list[SeenVolume]:
    """By `changed_at`, and name: at most `limit` behind `after`, of these or of all there are."""
    changed_at, vid = after
    named = None if vids is None else sorted(vids)
    arguments = {"library": library, "volumes": named, "changed_at": changed_at, "after": vid, "limit": limit}
    rows = (await connection.execute(_SQL["volumes"], arguments)).mappings()
    return [SeenVolume(**row) for row in rows]


async def gone_with_demand(connection: AsyncConnection) -> list[str]:
    """Volumes whose copies are gone, and that something waits for all the same."""
    return list((await connection.scalars(_SQL["gone_with_demand"])).all())


async def hurried(connection: AsyncConnection, library: str) -> list[str]:
    """Volumes that an operator wants mounted now."""
    return list((await connection.scalars(_SQL["hurried"], {"library": library})).all())


async def hurry(connection: AsyncConnection, volume: str, *, who: str, reason: str) -> str:
    """Whatever else waits, this volume is mounted next, as soon as anything wants it; its library.

    The caller wakes PLANNER. Raises NotFound, ReasonRequired.
    """
    reason = identity.reason_given(reason, object=f"volume {volume}")
    library: str | None = await connection.scalar(_SQL["hurry"], {"volume": volume})
    if library is None:
        raise NotFound(what=f"volume {volume}")
    await identity.audit(connection, who=who, action="volume hurried", object=volume, reason=reason)
    return library

"""Live mounts, taken and carried out by sessions; and the candidates that explain what is not mounted.

Their rows are written by planners, in `catalog.situations`; the end of a mount gives back what it had taken, so it is
in `catalog.endings`. Nothing here touches a library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.sql import load
from catalog.states import MountState

_SQL = {name: sa.text(statement) for name, statement in load("mounts").items()}
#: older mounts are neither evidence nor news
RECENT_MOUNTS = 500
#: so begins the reason of a stop that takes nothing from the mount: it has nothing to do, and ends as if by itself
REST = "nothing to do"
#: codes of candidates that wait for nothing but a drive (`catalog.candidates`)
DRIVE_CODES = ("no_free_drive", "no_free_compatible_drive")
_mount, _volume, _library, _drive = tables.mount, tables.volume, tables.library, tables.drive


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    epoch: int
    drive: str
    volume: str
    library: str
    pool: str | None
    purpose: str
    state: MountState
    reason_code: str
    reason_arguments: dict[str, Any]
    tapeserver: str | None
    files: int
    bytes: int
    stop_wanted: str | None
    created_at: datetime
    #: since it was planned
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MountWork:
    """All that a session needs to know to carry a mount out."""

    epoch: int
    drive: str
    volume: str
    library: str
    library_spec: dict[str, Any]
    pool: str | None
    purpose: str
    generation: int
    volume_state: str
    block_size: int
    tape_files: int
    end_block: int
    written_bytes: int
    capacity_bytes: int
    #: as an operator names it; "": as its library, or its capacity, tells
    medium: str
    #: HDR1 of the last index, 0: none; the chain of indexes tells of the tape files up to `indexed_tape_files`
    index_block: int
    indexed_tape_files: int
    catalog_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Why a volume or a pool is, or is not, mounted now; `catalog.candidates` renders it."""

    kind: str
    key: str
    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentEnd:
    """How the last mount of a volume ended, and how many in a row ended that way."""

    volume: str
    drive: str
    outcome: str
    ago_seconds: float
    #: mounts of this volume without a file moved, up to this one; 0 when it moved some
    fruitless: int


async def list_mounts(
    connection: AsyncConnection, *, drives: Sequence[str] | None = None, tapeserver: str | None = None
) -> list[Mount]:
    """Live mounts in the order of their epochs; only on `drives`, only those a tapeserver has taken."""
    age = sa.cast(sa.extract("epoch", sa.func.capstan_now() - _mount.c.created_at), sa.Double)
    names = [name for name in Mount.__dataclass_fields__ if name != "age_seconds"]
    query = sa.select(*(_mount.c[name] for name in names), age.label("age_seconds")).order_by(_mount.c.epoch)
    if drives is not None:
        query = query.where(_mount.c.drive.in_(drives))
    if tapeserver is not None:
        query = query.where(_mount.c.tapeserver == tapeserver)
    rows = (await connection.execute(query)).mappings()
    return [Mount(**{**row, "state": MountState(row["state"])}) for row in rows]


async def next_epochs(connection: AsyncConnection, count: int) -> list[int]:
    """Fresh epochs of the one sequence, for work on a drive that no mount row stands for."""
    statement = sa.text(
        "select nextval(pg_get_serial_sequence('mount', 'epoch')) from generate_series(1, cast(:count as integer))"
    )
    return list((await connection.scalars(statement, {"count": count})).all())


async def unchanged_for(connection: AsyncConnection, seconds: float) -> set[int]:
    """Epochs of mounts that nobody has moved on for so long."""
    statement = sa.text("select epoch from mount where changed_at < capstan_now() - make_interval(secs => :seconds)")
    return set((await connection.scalars(statement, {"seconds": seconds})).all())


async def make_partitions(connection: AsyncConnection) -> None:
    """The partitions of history for this month and the next two. Safe to repeat."""
    await connection.execute(sa.text("select make_history_partitions()"))


async def catalog_id(connection: AsyncConnection) -> str:
    """The id of this catalog, as volume labels carry it."""
    return str(await connection.scalar(sa.select(tables.catalog_identity.c.id)))


async def take(connection: AsyncConnection, epoch: int, tapeserver: str) -> MountWork | None:
    """A planned mount becomes this tapeserver's; None when it is gone or taken."""
    if await connection.scalar(_SQL["take"], {"epoch": epoch, "tapeserver": tapeserver}) is None:
        return None
    return await work_of(connection, epoch)


async def work_of(connection: AsyncConnection, epoch: int) -> MountWork | None:
    """What the mount of this epoch is about; None when it is over."""
    query = (
        sa.select(
            *(_mount.c[name] for name in ("epoch", "drive", "volume", "library", "pool", "purpose")),
            *(
                _volume.c[name]
                for name in (
                    *(
                        "generation",
                        "block_size",
                        "tape_files",
                        "end_block",
                        "written_bytes",
                        "capacity_bytes",
                        "medium",
                    ),
                    *("index_block", "indexed_tape_files"),
                )
            ),
            _volume.c.state.label("volume_state"),
            _library.c.spec.label("library_spec"),
            sa.select(tables.catalog_identity.c.id).scalar_subquery().label("catalog_id"),
        )
        .join(_volume, _volume.c.vid == _mount.c.volume)
        .join(_library, _library.c.name == _mount.c.library)
        .where(_mount.c.epoch == epoch)
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else MountWork(**row)


async def advance(connection: AsyncConnection, epoch: int, state: MountState) -> bool:
    """Move a mount on; False when it is over (or there already). An illegal step is refused by the database."""
    return await connection.scalar(_SQL["advance"], {"epoch": epoch, "state": state.value}) is not None


async def say_idle(connection: AsyncConnection, epoch: int, *, idle: bool) -> None:
    """Its session has nothing to do from now on; or has something again, and needs not rest. Safe to repeat."""
    await connection.execute(_SQL["idle"], {"epoch": epoch, "idle": idle, "rest": REST})


async def add_progress(connection: AsyncConnection, epoch: int, *, files: int, bytes: int) -> None:
    await connection.execute(_SQL["progress"], {"epoch": epoch, "files": files, "bytes": bytes})


async def want_stop(
    connection: AsyncConnection,
    why: str,
    *,
    drive: str | None = None,
    volume: str | None = None,
    library: str | None = None,
) -> int:
    """Ask the sessions concerned to stop after what they are just doing; how many there are."""
    arguments = {"why": why, "drive": drive, "volume": volume, "library": library}
    if drive is None and volume is None and library is None:
        raise ValueError("name a drive, a volume or a library")
    return len((await connection.scalars(_SQL["want_stop"], arguments)).all())


async def reasons_to_stop(connection: AsyncConnection, epochs: Sequence[int]) -> dict[int, str | None]:
    """epoch -> why it must stop, None when it need not; an epoch that is over is missing.

    By state, not by message: a session that missed a wake-up finds it at its next look.
    """
    why = sa.case(
        (_mount.c.stop_wanted.is_not(None), _mount.c.stop_wanted),
        (_library.c.state != "up", "library " + _library.c.state + ": " + _library.c.reason),
        (_drive.c.state != "up", "drive down: " + _drive.c.reason),
        (
            # A suspect volume is still read: what is on it may be the last copy. One that is closed is not written; a
            # mount that began when it was knows that, and writes its last index.
            _volume.c.state.in_(["disabled", "broken", "exported"])
            | (_volume.c.state.in_(["suspect", "repacking"]) & (_mount.c.purpose == "archive"))
            | (
                (_volume.c.state == "closed")
                & (_mount.c.purpose == "archive")
                & (_mount.c.created_at < _volume.c.closed_at)
            ),
            "volume " + _volume.c.state + ": " + _volume.c.reason,
        ),
    )
    query = (
        sa.select(_mount.c.epoch, why.label("why"))
        .join(_volume, _volume.c.vid == _mount.c.volume)
        .join(_library, _library.c.name == _mount.c.library)
        .join(_drive, _drive.c.name == _mount.c.drive)
        .where(_mount.c.epoch.in_(list(epochs)))
    )
    return {row.epoch: row.why for row in await connection.execute(query)}


async def recent_ends(
    connection: AsyncConnection, library: str | None = None, *, fruitless: Sequence[str] = ()
) -> dict[str, RecentEnd]:
    """volume -> how its last mount ended, of all volumes (of this library) among the newest mounts.

    `fruitless`: how outcomes begin that count among the mounts that brought nothing.
    """
    arguments = {"limit": RECENT_MOUNTS, "library": library, "fruitless": list(fruitless)}
    rows = await connection.execute(_SQL["recent_ends"], arguments)
    return {row.volume: RecentEnd(**row) for row in rows.mappings()}


async def write_candidates(
    connection: AsyncConnection,
    library: str,
    candidates: Sequence[Candidate],
    *,
    gone: Sequence[tuple[str, str]] | None,
) -> int:
    """Say this of candidates of `library`; how many rows changed. Of those `gone` (kind and key), without that of all
    others, nothing is to be said any more."""
    kinds, keys = [one.kind for one in candidates], [one.key for one in candidates]
    written = await connection.execute(
        _SQL["candidates_write"],
        {
            "library": library,
            "kinds": kinds,
            "keys": keys,
            "codes": [one.code for one in candidates],
            "arguments": [json.dumps(dict(one.arguments), sort_keys=True) for one in candidates],
        },
    )
    kept = list(zip(kinds, keys, strict=True))
    return written.rowcount + await clear_candidates(connection, library, gone=gone, kept=kept)


async def clear_candidates(
    connection: AsyncConnection,
    library: str,
    *,
    gone: Sequence[tuple[str, str]] | None,
    kept: Sequence[tuple[str, str]] = (),
) -> int:
    """Of those `gone` nothing is to be said any more; None: of all but those `kept`. How many rows went."""
    if gone is not None and not gone:
        return 0
    statement, some = ("candidates_clear", kept) if gone is None else ("candidates_drop", gone)
    arguments = {"library": library, "kinds": [kind for kind, _ in some], "keys": [key for _, key in some]}
    return (await connection.execute(_SQL[statement], arguments)).rowcount


async def drives_wanted(connection: AsyncConnection, library: str) -> bool:
    """Whether anything of the library waits for nothing but a drive, as its planner has said last."""
    table = tables.candidate
    waits = sa.select(table.c.key).where(table.c.library == library, table.c.code.in_(DRIVE_CODES))
    return bool(await connection.scalar(sa.select(waits.exists())))


async def list_candidates(
    connection: AsyncConnection, *, keys: Sequence[str] | None = None, library: str | None = None
) -> list[Candidate]:
    """What the planners said last, by kind and name."""
    table = tables.candidate
    query = sa.select(table.c.kind, table.c.key, table.c.code, table.c.arguments).order_by(table.c.kind, table.c.key)
    if keys is not None:
        query = query.where(table.c.key.in_(list(keys)))
    if library is not None:
        query = query.where(table.c.library == library)
    return [Candidate(**row) for row in (await connection.execute(query)).mappings()]

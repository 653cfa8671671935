"""Long work on media: begun, listed and cancelled here; and what verifying a volume wants of the catalog.

How a repack or an audit goes on is in `catalog.repacks` and `catalog.audits`; who reads a tape is the tape server's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import audits, fullindexes, identity, maintenancerows, recalls, repacks, repairs, volumestates
from catalog.errors import BadRequest, NotFound, WrongState
from catalog.maintenancerows import SQL, Maintenance, forget, listed
from catalog.states import READABLE_VOLUME_STATES, MaintenanceState, VolumeState

KINDS = ("verify", "repack", "audit")
#: what a repack may begin with; one that is suspect must be looked at first, because a repack would trust its copies
_REPACKABLE = frozenset({VolumeState.ACTIVE, VolumeState.FULL, VolumeState.CLOSED, VolumeState.DISABLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyToVerify:
    file_id: int
    size: int
    adler32: str
    generation: int
    tape_file: int
    first_block: int
    byte_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWaiting:
    """A volume that wants a mount of its own kind."""

    id: int
    #: verify, label or index
    kind: str
    volume: str
    pool: str | None
    volume_state: str
    volume_reason: str
    options: dict[str, Any]
    age_seconds: float


async def begin(
    connection: AsyncConnection,
    kind: str,
    key: str,
    *,
    who: str,
    reason: str,
    options: Mapping[str, Any] | None = None,
) -> int:
    """Begin a verify or repack of volume `key`, or an audit of storage class `key`; its id.

    Of a verify `options` may hold {"share": part of the copies, above 0 and up to 1}. The caller wakes PLANNER.
    Raises NotFound, WrongState (one is under way, or the volume's state does not allow it), BadRequest, ReasonRequired.
    """
    if kind not in KINDS:
        raise BadRequest(why=f"{kind!r} is no kind of maintenance; known are {', '.join(KINDS)}")
    chosen = _checked(kind, options or {})
    reason = identity.reason_given(reason, object=f"{kind} of {key}")
    if kind == "audit":
        if not await audits.class_exists(connection, key):
            raise NotFound(what=f"storage class {key}")
    else:
        await _check_volume(connection, kind, key)
    made = await maintenancerows.insert(connection, kind, key, who=who, reason=reason, options=chosen)
    if made is None:
        raise WrongState(object=f"{kind} of {key}", state="under way", action="another one")
    if kind == "repack":
        repacking = VolumeState.REPACKING.value
        await volumestates.set_state(connection, "volume", key, repacking, who=who, reason=reason)
    if kind != "audit":
        counted = {"volume": key, "state": "live" if kind == "repack" else "deleted"}
        there = (await connection.execute(SQL["copies_on"], counted)).one()
        share = float(chosen.get("share", 1.0))
        files, size = round(there.files * share), round(there.bytes * share)
        await connection.execute(SQL["size_up"], {"id": made, "files": files, "bytes": size})
    detail = {"id": made, **chosen}
    await identity.audit(connection, who=who, action=f"{kind} begun", object=key, reason=reason, detail=detail)
    return made


async def at(connection: AsyncConnection, id: int) -> Maintenance:
    """The row, locked. Raises NotFound."""
    row = await maintenancerows.locked(connection, id)
    if row is None:
        raise NotFound(what=f"maintenance {id}")
    return row


async def cancel(connection: AsyncConnection, id: int, *, who: str, reason: str) -> Maintenance:
    """End it where it is. A repacked volume is closed; a verify stops at its next look. As it was, the row.

    The caller wakes PLANNER and SESSIONS. Raises NotFound, WrongState (it is over), ReasonRequired.
    """
    reason = identity.reason_given(reason, object=f"maintenance {id}")
    row = await at(connection, id)
    note = f"cancelled by {who}: {reason}"
    if not await maintenancerows.finish(connection, row, MaintenanceState.CANCELLED, note):
        raise WrongState(object=f"maintenance {id}", state=row.state, action="a cancel")
    if row.kind == "repack":
        await repacks.stop(connection, row, who=who, reason=f"repack {note}")
    elif row.kind == "audit":
        await repairs.give_up(connection, audits.activity(row.key))
    await identity.audit(connection, who=who, action=f"{row.kind} cancelled", object=row.key, reason=reason)
    return row


async def cancel_of_volume(connection: AsyncConnection, volume: str, note: str) -> None:
    """What was to be done with what is on this volume is without an object."""
    for row in await listed(connection, key=volume, live=True):
        if row.kind != "audit":
            await maintenancerows.finish(connection, row, MaintenanceState.CANCELLED, note)
        if row.kind == "repack":
            await repairs.give_up(connection, repacks.activity(volume))


async def volumes_waiting(connection: AsyncConnection, library: str, *, limit: int = 100) -> list[VolumeWaiting]:
    """Volumes of `library` that wait to be labelled, given their full index, or verified, oldest first."""
    values = {"library": library, "limit": limit, "index_starts_max": fullindexes.STARTS_MAX}
    rows = await connection.execute(SQL["waiting_volumes"], values)
    return [VolumeWaiting(**row) for row in rows.mappings()]


# ------------------------------------------------------------------ what a verify wants


async def live_verify(connection: AsyncConnection, volume: str) -> Maintenance | None:
    """The verify of this volume that is under way."""
    return next(iter(await listed(connection, kind="verify", key=volume, live=True)), None)


async def live_label(connection: AsyncConnection, volume: str) -> Maintenance | None:
    """The label that is wanted for this volume."""
    return next(iter(await listed(connection, kind="label", key=volume, live=True)), None)


async def label_ended(connection: AsyncConnection, row: Maintenance, state: MaintenanceState, note: str) -> None:
    """It was written (DONE) or refused (FAILED)."""
    if await maintenancerows.finish(connection, row, state, note):
        await identity.audit(connection, who=row.who, action=f"label {state}", object=row.key, reason=note)


async def copies_to_verify(
    connection: AsyncConnection, row: Maintenance, *, after: tuple[int, int], limit: int
) -> list[CopyToVerify]:
    """The next copies of this verify by position, behind `after` (block, byte offset)."""
    values = {
        "volume": row.key,
        "after_block": after[0],
        "after_offset": after[1],
        "share": float(row.options.get("share", 1.0)),
        "seed": row.id,
        "limit": limit,
    }
    return [CopyToVerify(**one) for one in (await connection.execute(SQL["verify_copies"], values)).mappings()]


async def copies_to_verify_again(
    connection: AsyncConnection, volume: str, files: Collection[int]
) -> list[CopyToVerify]:
    """Copies on `volume` of these files, by position."""
    values = {"volume": volume, "files": sorted(files)}
    return [CopyToVerify(**one) for one in (await connection.execute(SQL["verify_again"], values)).mappings()]


async def verify_progress(
    connection: AsyncConnection,
    epoch: int,
    row: Maintenance,
    *,
    cursor: Mapping[str, Any],
    files: int,
    bytes: int,
    errors: int = 0,
) -> bool:
    """So many copies were read back under this mount; False when the verify was cancelled. Raises StaleEpoch."""
    await recalls.fence(connection, epoch)
    return await maintenancerows.progress(
        connection, row.id, cursor=cursor, done_files=files, done_bytes=bytes, errors=errors
    )


async def verify_ended(connection: AsyncConnection, row: Maintenance, state: MaintenanceState, note: str) -> None:
    """All was read back (DONE: the volume's age begins anew, when it was all of it), or it was given up (FAILED)."""
    if await maintenancerows.finish(connection, row, state, note):
        if state is MaintenanceState.DONE and float(row.options.get("share", 1.0)) >= 1:
            await connection.execute(SQL["verified"], {"volume": row.key})
        await identity.audit(connection, who=row.who, action=f"verify {state}", object=row.key, reason=note)


async def verifies_due(connection: AsyncConnection, libraries: Sequence[str], *, days: float, limit: int) -> list[str]:
    """Volumes that were not read back for so long, the oldest first."""
    if limit <= 0 or not libraries:
        return []
    values = {"libraries": list(libraries), "seconds": days * 86400, "limit": limit}
    return list((await connection.scalars(SQL["verify_due"], values)).all())


def _checked(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(options) - ({"share"} if kind == "verify" else set())
    if unknown:
        raise BadRequest(why=f"a {kind} has no option {min(unknown)!r}")
    share = options.get("share", 1.0)
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise BadRequest(why=f"the share of a verify is above 0 and up to 1, not {share!r}")
    return dict(options)


async def _check_volume(connection: AsyncConnection, kind: str, vid: str) -> None:
    state = await volumestates.volume_state(connection, vid)
    if state is None:
        raise NotFound(what=f"volume {vid}")
    allowed = _REPACKABLE if kind == "repack" else READABLE_VOLUME_STATES
    if state not in allowed and not (kind == "repack" and state is VolumeState.REPACKING):
        raise WrongState(object=f"volume {vid}", state=state, action=f"a {kind}")


__all__ = [
    "KINDS", "CopyToVerify", "Maintenance", "VolumeWaiting", "at", "begin", "cancel", "cancel_of_volume",
    "copies_to_verify", "copies_to_verify_again", "forget", "label_ended", "listed", "live_label", "live_verify",
    "verifies_due", "verify_ended", "verify_progress", "volumes_waiting",
]  # fmt: skip

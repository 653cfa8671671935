"""States of libraries, drives and volumes: who may move them, and all that follows from a move in the same transaction.

`set_state` is the one way, for people and for Capstan itself: checked against the machine, with a reason, audited, and
told as an event; `distrust` says by it that a tape is not what it should be. Nothing here moves a cartridge. Giving up
what is on a volume is `catalog.reclaiming`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, audits, endings, events, identity, mounts, recalls
from catalog.errors import BadRequest, NotFound, Unsafe, WrongState
from catalog.sql import load
from catalog.states import GOOD_VOLUME_STATES, DriveState, LibraryState, VolumeState, advance

_SQL = {name: sa.text(statement) for name, statement in load("volumes").items()}
_GONE = frozenset({VolumeState.BROKEN, VolumeState.EXPORTED})
_STOPPED = frozenset({VolumeState.DISABLED, VolumeState.SUSPECT, *_GONE})
#: "enabled" leads back from here
_OUT_OF_USE = frozenset({VolumeState.DISABLED, VolumeState.SUSPECT})


async def set_state(
    connection: AsyncConnection, kind: str, name: str, wanted: str, *, who: str, reason: str, force: bool = False
) -> bool:
    """Move a library, drive or volume to `wanted`, with all that follows from it; False when it was there already.

    A volume may also be "enabled": back from disabled or suspect to what it was. Mounts concerned are asked to stop.
    What makes files unsafe queues them again. An export that does so wants `force`; one of a mounted volume is refused.
    The caller wakes PLANNER and SESSIONS. Raises NotFound, WrongState, ReasonRequired, BadRequest, Unsafe.
    """
    if kind not in ("library", "drive", "volume"):
        raise BadRequest(why=f"{kind!r} has no state that can be set")
    reason = identity.reason_given(reason, object=f"{kind} {name}")
    row = (await connection.execute(_SQL[f"lock_{kind}"], {"name": name})).one_or_none()
    if row is None:
        raise NotFound(what=f"{kind} {name}")
    target = _target(kind, wanted, row)
    if target == row.state:
        return False
    advance(kind, _state_of(kind, row.state), _state_of(kind, target), object=f"{kind} {name}")
    detail: dict[str, Any] = {"from": row.state, "to": target}
    if kind == "volume":
        await _check_volume(connection, row, VolumeState(target))
        if target == VolumeState.EXPORTED:
            detail["unsafe_files"] = await _check_export(connection, name, force=force)
    arguments = {"name": name, "state": target, "reason": "" if _is_good(target) else reason, "who": who}
    await connection.execute(_SQL[f"move_{kind}"], arguments)
    if kind == "volume":
        await _volume_moved(connection, name, VolumeState(row.state), VolumeState(target), reason)
    elif target != "up":
        await mounts.want_stop(connection, f"{kind} {target}: {reason}", **{kind: name})
    await identity.audit(connection, who=who, action=f"{kind} {target}", object=name, reason=reason, detail=detail)
    await events.emit(connection, f"{kind}.state", name, {**detail, "reason": reason, "who": who})
    return True


async def distrust(connection: AsyncConnection, vid: str, *, who: str, reason: str) -> bool:
    """What is on the tape is not what the catalog says: no copy on it counts, until a person enables it again.

    Suspect, from any state in which its copies counted, also disabled; a blank one is disabled, and one that is gone
    stays as it is. What follows is as of `set_state`. False when nothing changed. Raises NotFound, ReasonRequired.
    """
    row = (await connection.execute(_SQL["lock_volume"], {"name": vid})).one_or_none()
    if row is None:
        raise NotFound(what=f"volume {vid}")
    if row.state not in GOOD_VOLUME_STATES and row.state != VolumeState.BLANK:
        return False
    wanted = VolumeState.DISABLED if row.empty else VolumeState.SUSPECT
    return await set_state(connection, "volume", vid, wanted.value, who=who, reason=reason)


async def volume_state(connection: AsyncConnection, vid: str) -> VolumeState | None:
    """None when there is no such volume. Its row is locked against other changes of its state."""
    row = (await connection.execute(_SQL["lock_volume"], {"name": vid})).one_or_none()
    return None if row is None else VolumeState(row.state)


async def _check_volume(connection: AsyncConnection, row: sa.Row[Any], target: VolumeState) -> None:
    """What the machine alone does not say: which states are not an operator's word."""
    vid = f"volume {row.vid}"
    if target is VolumeState.BLANK and not row.empty:
        raise WrongState(object=vid, state=row.state, action="giving it up without a reclaim")
    if row.state == VolumeState.BLANK and target is VolumeState.ACTIVE:
        raise WrongState(object=vid, state=row.state, action="writing on it before it has a label")
    if target is VolumeState.REPACKING and not row.repacked:
        raise WrongState(object=vid, state=row.state, action="that state without a repack that is under way")


async def _check_export(connection: AsyncConnection, vid: str, *, force: bool) -> int:
    """How many files are safe only while this volume is here. Raises WrongState (mounted), Unsafe."""
    if await connection.scalar(_SQL["mounted_in"], {"vid": vid}) is not None:
        raise WrongState(object=f"volume {vid}", state="mounted", action="an export")
    found = (await connection.execute(_SQL["unsafe_without"], {"vid": vid})).one()
    if found.unsafe and not force:
        raise Unsafe(what=f"volume {vid}", files=found.unsafe, last=found.last)
    return int(found.unsafe)


async def _volume_moved(
    connection: AsyncConnection, name: str, present: VolumeState, target: VolumeState, reason: str
) -> None:
    if target in _STOPPED:
        await mounts.want_stop(connection, f"volume {target}: {reason}", volume=name)
    if target in _GONE:
        await endings.copies_gone(connection, name)
    elif present in _GONE:
        await recalls.offer_volume(connection, name)
    if present in GOOD_VOLUME_STATES and target not in GOOD_VOLUME_STATES:
        # In this very transaction its files are no longer safe; those still on disk are written again, and an audit
        # of their classes brings back the others from what other copies they have.
        await archives.repair_copies_of(connection, name)
        await audits.want_audits_of(connection, name, reason=f"volume {name} is {target}: {reason}")


def _target(kind: str, wanted: str, row: sa.Row[Any]) -> str:
    states = {"library": LibraryState, "drive": DriveState, "volume": VolumeState}[kind]
    if kind == "volume" and wanted == "enabled":
        return _state_before(row)
    if wanted not in list(states):
        known = ", ".join([*states, *(["enabled"] if kind == "volume" else [])])
        raise BadRequest(why=f"{wanted!r} is not a state of a {kind}; known are {known}")
    return wanted


def _state_before(row: sa.Row[Any]) -> str:
    """What a volume was before it was taken out of use."""
    if row.state not in _OUT_OF_USE:
        return str(row.state)
    if row.empty:
        return VolumeState.BLANK.value
    if row.repacked:
        return VolumeState.REPACKING.value
    if row.closed_at is not None:
        return VolumeState.CLOSED.value
    return (VolumeState.FULL if row.full_at is not None else VolumeState.ACTIVE).value


def _state_of(kind: str, state: str) -> LibraryState | DriveState | VolumeState:
    if kind == "library":
        return LibraryState(state)
    return DriveState(state) if kind == "drive" else VolumeState(state)


def _is_good(state: str) -> bool:
    return state in ("up", "active", "blank")

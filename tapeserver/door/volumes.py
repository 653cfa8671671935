"""Operators' calls about the life of volumes: verbs of one volume, long work on media, alerts, one of them whole.

Anybody with a token may look; a change needs an administrator, a reason, and is audited in its own transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import alerts, failures, identity, maintenance, mediaviews, pools, reading, situations, volumes
from catalog.database import EVENTS, PLANNER, SESSIONS
from catalog.errors import BadRequest, NotFound, WrongState
from catalog.states import VolumeState
from client import operatormessages as messages
from client.serving import json_body, json_response
from tapeserver.door.context import DoorContext, context_of
from tapeserver.door.operators import administrator

MAINTENANCE_SHOWN_MAX = 1_000
#: verb -> state to ask for. What comes back from outside is suspect until somebody has looked at it.
STATES = {
    "enable": "enabled", "disable": "disabled", "close": "closed", "reopen": "active", "broken": "broken",
    "export": "exported", "import": "suspect",
}  # fmt: skip
#: verb -> the states that it leads from, where more than one verb asks for the same state
_FROM = {"reopen": (VolumeState.CLOSED, VolumeState.FULL), "import": (VolumeState.EXPORTED,)}
_Verb = Callable[[AsyncConnection, DoorContext, str, str, messages.VolumeBody], Awaitable[messages.Row]]


async def volume_shown(request: web.Request) -> web.Response:
    context = context_of(request)
    async with context.database.connection() as connection:
        found = await mediaviews.volume_view(connection, request.match_info["name"], **_reclaiming(context))
    return json_response(found)


async def drive_shown(request: web.Request) -> web.Response:
    async with context_of(request).database.connection() as connection:
        return json_response(await mediaviews.drive_view(connection, request.match_info["name"]))


async def volume_verb(request: web.Request) -> web.Response:
    """POST volumes/VID/VERB: what a person wants of a volume."""
    context, principal = context_of(request), administrator(request)
    vid, verb = request.match_info["name"], request.match_info["verb"]
    body = await json_body(request, messages.VolumeBody)
    work = _VERBS.get(verb) or (_set_state(verb) if verb in STATES else None)
    if work is None:
        raise NotFound(what=f"the verb {verb} of a volume")
    if verb in ("reclaim", "relabel"):
        identity.reason_given(body.reason, object=f"volume {vid}")
        # A million files are not forgotten in one transaction; what was when this is broken off need not be again.
        await volumes.clear_away(context.database, vid, **_reclaiming(context))
    answer = await context.database.run(lambda connection: work(connection, context, vid, principal.owner, body))
    _wake(context)
    return json_response({"volume": vid, **answer})


def _set_state(verb: str) -> _Verb:
    async def set_state(
        connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
    ) -> messages.Row:
        if verb in _FROM:
            present = (await volumes.volume_at(connection, vid)).state
            if present not in _FROM[verb]:
                raise WrongState(object=f"volume {vid}", state=present, action=f"the verb {verb}")
        changed = await volumes.set_state(
            connection, "volume", vid, STATES[verb], who=who, reason=body.reason, force=body.force
        )
        if verb == "enable":
            # Whoever enables it has looked at it: what failed before is no evidence any more.
            await failures.clear(connection, volume=vid)
        found = await volumes.volume_at(connection, vid)
        answer: messages.Row = {"state": str(found.state), "changed": changed}
        if verb == "import" and found.tape_files:
            # Nobody knows what it has been through: it is read back before anybody has to decide.
            answer["maintenance"] = await _read_back(connection, vid, who, f"it was imported: {body.reason}")
        return answer

    return set_state


async def _read_back(connection: AsyncConnection, vid: str, who: str, reason: str) -> int:
    """The verify that is under way, or a new one."""
    live = await maintenance.live_verify(connection, vid)
    return live.id if live else await maintenance.begin(connection, "verify", vid, who=who, reason=reason)


class _Reclaiming(TypedDict):
    recycle_days: float
    needs_backup: bool


def _reclaiming(context: DoorContext) -> _Reclaiming:
    return {"recycle_days": context.recycle_days, "needs_backup": context.reclaim_needs_backup}


async def _reclaim(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    done = await volumes.reclaim(connection, vid, who=who, reason=body.reason, **_reclaiming(context))
    return {"state": "blank", "copies": done.copies, "files": done.files}


async def _relabel(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    made = await volumes.relabel(connection, vid, who=who, reason=body.reason, force=body.force, **_reclaiming(context))
    return {"maintenance": made}


async def _label(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    """A relabel of what has no label that the catalog trusts: nothing can be given up by it."""
    present = (await volumes.volume_at(connection, vid)).state
    if present is not VolumeState.BLANK:
        raise WrongState(object=f"volume {vid}", state=present, action="a first label; see relabel")
    return await _relabel(connection, context, vid, who, body)


async def _verify(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    options = {} if body.share is None else {"share": body.share}
    made = await maintenance.begin(connection, "verify", vid, who=who, reason=body.reason, options=options)
    return {"maintenance": made}


async def _repack(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    return {"maintenance": await maintenance.begin(connection, "repack", vid, who=who, reason=body.reason)}


async def _cancel(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    """Whatever is under way on the volume."""
    await volumes.volume_at(connection, vid)
    live = [one for one in await maintenance.listed(connection, key=vid, live=True) if one.kind != "audit"]
    if not live:
        raise NotFound(what=f"a verify, repack or label of {vid} that is under way")
    for one in live:
        await maintenance.cancel(connection, one.id, who=who, reason=body.reason)
    return {"cancelled": [one.kind for one in live], "state": str((await volumes.volume_at(connection, vid)).state)}


async def _mend(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    """What was found broken can be read after all: the drives were to blame, or the medium was cleaned."""
    reason = identity.reason_given(body.reason, object=f"volume {vid}")
    present = (await volumes.volume_at(connection, vid)).state
    mended = await failures.mend_copies(connection, vid)
    detail = {"copies": len(mended)}
    await identity.audit(connection, who=who, action="copies mended", object=vid, reason=reason, detail=detail)
    return {"state": str(present), "mended": len(mended)}


async def _remove(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    await volumes.remove(connection, vid, who=who, reason=body.reason)
    return {"removed": True}


async def _now(
    connection: AsyncConnection, context: DoorContext, vid: str, who: str, body: messages.VolumeBody
) -> messages.Row:
    await situations.hurry(connection, vid, who=who, reason=body.reason)
    return {}


_VERBS: dict[str, _Verb] = {
    "reclaim": _reclaim, "relabel": _relabel, "label": _label, "verify": _verify, "repack": _repack,
    "cancel": _cancel, "mend": _mend, "remove": _remove, "now": _now,
}  # fmt: skip


async def maintenance_listed(request: web.Request) -> web.Response:
    """Long work on media, the newest first: what is under way, or with `?all=1` also what has ended."""
    async with context_of(request).database.connection() as connection:
        found = await maintenance.listed(
            connection,
            kind=request.query.get("kind"),
            key=request.query.get("key"),
            live=request.query.get("all") != "1",
            limit=MAINTENANCE_SHOWN_MAX,
        )
    return json_response(messages.Items(items=[reading.row_of(one) for one in found]))


async def maintenance_cancelled(request: web.Request) -> web.Response:
    context, principal, number = context_of(request), administrator(request), _number(request)
    body = await json_body(request, messages.ReasonBody)
    row = await context.database.run(
        lambda connection: maintenance.cancel(connection, number, who=principal.owner, reason=body.reason)
    )
    _wake(context)
    return json_response({"id": number, "kind": row.kind, "key": row.key, "state": "cancelled"})


async def audit_begun(request: web.Request) -> web.Response:
    """Look for missing copies in these storage classes, or in all; where one is under way, it is named."""
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.AuditBody)

    async def begin(connection: AsyncConnection) -> list[dict[str, Any]]:
        classes = body.storage_classes or [one.name for one in await volumes.list_storage_classes(connection)]
        live = {one.key: one.id for one in await maintenance.listed(connection, kind="audit", live=True)}
        return [
            {"storage_class": name, "maintenance": live[name], "began": False}
            if name in live
            else {
                "storage_class": name,
                "maintenance": await maintenance.begin(
                    connection, "audit", name, who=principal.owner, reason=body.reason
                ),
                "began": True,
            }
            for name in classes
        ]

    begun = await context.database.run(begin)
    _wake(context)
    return json_response(messages.Items(items=begun))


async def storage_class_changed(request: web.Request) -> web.Response:
    """Further copies are made, or other pools used from now on; an audit brings the files of the class along."""
    context, principal = context_of(request), administrator(request)
    name = request.match_info["name"]
    body = await json_body(request, messages.StorageClassChange)
    made = await context.database.run(
        lambda connection: volumes.change_storage_class(
            connection,
            name,
            who=principal.owner,
            reason=body.reason,
            copies=body.copies,
            pools=body.pools,
            evict_degraded=body.evict_degraded,
        )
    )
    _wake(context)
    return json_response({"storage_class": name, "maintenance": made})


async def pool_changed(request: web.Request) -> web.Response:
    context, principal = context_of(request), administrator(request)
    name = request.match_info["name"]
    body = await json_body(request, messages.PoolChange)
    await context.database.run(
        lambda connection: pools.change(
            connection, name, volumes_open_max=body.volumes_open_max, who=principal.owner, reason=body.reason
        )
    )
    _wake(context)
    return json_response({"pool": name, "volumes_open_max": body.volumes_open_max})


async def alerts_listed(request: web.Request) -> web.Response:
    """What libraries and drives said and nobody has seen to, the newest first."""
    async with context_of(request).database.connection() as connection:
        found = await alerts.open_alerts(connection, request.query.get("library"))
    return json_response(messages.Items(items=[reading.row_of(one) for one in found]))


async def alert_cleared(request: web.Request) -> web.Response:
    context, principal, number = context_of(request), administrator(request), _number(request)
    await context.database.run(lambda connection: alerts.clear_alert(connection, number, principal.owner))
    return json_response({"id": number, "cleared": True})


def _number(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(why=f"{text[:40]!r} is not a number")
    return int(text)


def _wake(context: DoorContext) -> None:
    for channel in (PLANNER, SESSIONS, EVENTS):
        context.database.wake(channel)

"""The WLCG Tape REST API v1: stage, poll, cancel, delete, release, archiveinfo, and its discovery document.

Bodies may hold more than is known, as the standard demands; what is known must have its type. Both URL forms, with
and without a slash at the end, are answered. A file that the caller may not see carries an error and nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http import HTTPStatus

import msgspec
from aiohttp import web

from catalog import estimates, localities, namespace, staging
from catalog.database import EVENTS, PLANNER, QUEUES
from catalog.errors import BadJson, BadPath, Denied, NotFound, TooLarge
from catalog.model import Action, Principal, grants_cover, join_path, parse_path
from catalog.states import ItemState
from catalog.units import parse_iso_duration
from client.messages import (
    ArchiveInfo,
    Paths,
    StageAccepted,
    StageBody,
    StageFile,
    StageFileProgress,
    TapeEndpoint,
    WellKnown,
)
from client.serving import decode_json, json_response, read_body
from tapeserver.door.context import DoorContext, context_of, principal_of

#: the standard wants a subset answered when more is asked for, never an error
ARCHIVEINFO_PATHS_MAX = 10_000
#: larger bodies are decoded beside the event loop
_INLINE_BYTES_MAX = 1 << 20
_INLINE_FILES_MAX = 10_000
#: in targetedMetadata beside the site's own name: what is meant for any Capstan, and what is meant for any site
OWN_METADATA, ANY_SITE = "capstan", "default"
#: of an activity, or of the label of a cohort; what is longer is cut
METADATA_TEXT_MAX = 200
_SLASHES = re.compile("/{2,}")
_NOT_ACCESSIBLE = "USER ERROR: file does not exist or is not accessible to you"
_ENCODER = msgspec.json.Encoder()


async def well_known(request: web.Request) -> web.Response:
    context = context_of(request)
    uri = f"{request.scheme}://{request.host}/api/v1"
    limits = {"stageFilesMax": context.stage_files_max, "archiveinfoPathsMax": ARCHIVEINFO_PATHS_MAX}
    endpoint = TapeEndpoint(uri=uri, version="v1", metadata=limits)
    return json_response(WellKnown(sitename=context.site_name, endpoints=[endpoint], description="Capstan"))


async def submit(request: web.Request) -> web.Response:
    """Accept a request: 201 with its id. Paths are looked at later, each with its own answer."""
    context, principal = context_of(request), principal_of(request)
    raw = await read_body(request, limit_bytes=context.stage_bytes_max)
    if len(raw) > _INLINE_BYTES_MAX:
        body = await asyncio.to_thread(decode_json, raw, StageBody)
    else:
        body = decode_json(raw, StageBody)
    del raw
    if not body.files:
        raise BadJson(why="files - Field does not exist or is not a valid non-empty array")
    if len(body.files) > context.stage_files_max:
        raise TooLarge(what="the number of files", actual=len(body.files), limit=context.stage_files_max)
    # A large one is read beside the event loop.
    read = partial(_wanted, body.files, principal, context)
    wanted = await asyncio.to_thread(read) if len(body.files) > _INLINE_FILES_MAX else read()
    request_id = await context.database.run(
        lambda connection: staging.create_request(
            connection,
            principal,
            wanted.items,
            activity=wanted.activity,
            priority=wanted.priority,
            cohorts=wanted.cohorts,
        )
    )
    context.database.wake(QUEUES)
    location = f"{request.scheme}://{request.host}/api/v1/stage/{request_id}"
    accepted = StageAccepted(request_id=str(request_id))
    return json_response(accepted, status=HTTPStatus.CREATED, headers={"Location": location})


async def progress(request: web.Request) -> web.StreamResponse:
    """Every file of a request with its state, streamed."""
    context = context_of(request)
    async with context.database.connection() as connection:
        found = await staging.request_at(connection, _request_id(request))
        _refuse_stranger(principal_of(request), found)
        head: dict[str, object] = {
            "id": str(found.id),
            "createdAt": _seconds(found.created_at),
            "startedAt": _seconds(found.started_at or found.created_at),
        }
        if found.completed_at is not None:
            head["completedAt"] = _seconds(found.completed_at)
        elif (expected := await estimates.of_request(connection, found.id)) is not None:
            head["expectedSeconds"] = round(expected, 1)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        buffer = bytearray(_ENCODER.encode(head)[:-1] + b',"files":[')
        first = True
        async for item in staging.items_of(connection, found.id):
            if not first:
                buffer += b","
            first = False
            buffer += _ENCODER.encode(_progress(item))
            if len(buffer) > 1 << 18:
                await response.write(bytes(buffer))
                buffer.clear()
    await response.write(bytes(buffer) + b"]}")
    await response.write_eof()
    return response


async def cancel(request: web.Request) -> web.Response:
    context, request_id, paths = context_of(request), _request_id(request), await _paths(request)
    await _own(request, request_id)
    await context.database.run(lambda connection: staging.cancel(connection, request_id, paths))
    _wake(context)
    return web.Response()


async def delete(request: web.Request) -> web.Response:
    context, request_id = context_of(request), _request_id(request)
    await _own(request, request_id)
    await context.database.run(lambda connection: staging.delete(connection, request_id))
    _wake(context)
    return web.Response()


async def release(request: web.Request) -> web.Response:
    """Drop pins. An id that is unknown, or none at all, releases the caller's own pins on these paths: always 200."""
    context, principal, paths = context_of(request), principal_of(request), await _paths(request)
    text = request.match_info["id"]
    request_id = int(text) if _is_number(text) else None
    if request_id is not None:
        try:
            await _own(request, request_id)
        except (NotFound, Denied):
            request_id = None
    await context.database.run(lambda connection: staging.release(connection, principal, request_id, paths))
    return web.Response()


async def archiveinfo(request: web.Request) -> web.Response:
    """Where files are, per path; errors per path too."""
    context, principal = context_of(request), principal_of(request)
    paths = (await _paths(request))[:ARCHIVEINFO_PATHS_MAX]
    visible = [path for path in paths if _is_visible(principal, path)]
    async with context.database.connection() as connection:
        targets = await namespace.resolve_many(connection, [_normal(path) for path in visible])
        found = dict(zip(visible, targets, strict=True))
        places = await localities.places(
            connection, [target.file_id for target in targets if target.file_id is not None]
        )
    answers = []
    for path in paths:
        target = found.get(path)
        if target is None or target.kind is None:
            answers.append(ArchiveInfo(path=path, error=_NOT_ACCESSIBLE))
        elif target.file_id is None or target.file_id not in places:
            answers.append(ArchiveInfo(path=path, error="USER ERROR: this is a directory"))
        else:
            answers.append(ArchiveInfo(path=path, locality=str(places[target.file_id].locality)))
    return json_response(answers)


def priority_granted(told: object, principal: Principal, context: DoorContext) -> int:
    """As asked for, as far as this principal may: up to that of everybody, and never among what is Capstan's own."""
    if not isinstance(told, int) or isinstance(told, bool):
        return staging.DEFAULT_PRIORITY
    highest = staging.PRIORITY_MAX if principal.is_admin else min(context.stage_priority_max, staging.PRIORITY_MAX)
    return max(staging.PRIORITY_MIN, min(told, highest))


def _progress(item: staging.Item) -> StageFileProgress:
    if item.error_code == "denied":
        # No state, no times: nothing about a file that the token does not reach.
        return StageFileProgress(path=item.path, error=item.error)
    return StageFileProgress(
        path=item.path,
        state=ItemState(item.state).value.upper(),
        started_at=_seconds(item.started_at) if item.started_at else None,
        finished_at=_seconds(item.finished_at) if item.finished_at else None,
        error=item.error,
    )


async def _paths(request: web.Request) -> list[str]:
    context = context_of(request)
    raw = await read_body(request, limit_bytes=context.stage_bytes_max)
    body = decode_json(raw, Paths)
    if not body.paths:
        raise BadJson(why="paths - Field does not exist or is not a valid non-empty array")
    if len(body.paths) > context.stage_files_max:
        raise TooLarge(what="the number of paths", actual=len(body.paths), limit=context.stage_files_max)
    return [_collapsed(path) for path in body.paths]


async def _own(request: web.Request, request_id: int) -> None:
    async with context_of(request).database.connection() as connection:
        _refuse_stranger(principal_of(request), await staging.request_at(connection, request_id))


def _refuse_stranger(principal: Principal, found: staging.Request) -> None:
    if principal.owner != found.owner and not principal.is_admin:
        raise Denied(owner=principal.owner, action="access", path=f"request {found.id}")


def _wake(context: DoorContext) -> None:
    context.database.wake(PLANNER)
    context.database.wake(EVENTS)


def _request_id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not _is_number(text):
        raise NotFound(what=f"request {text[:80]}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _collapsed(path: str) -> str:
    """The path as it is echoed. What the catalog cannot store at all is refused with the whole request."""
    if "\0" in path:
        raise BadPath(path=path[:200], why="it holds a control character")
    return _SLASHES.sub("/", path)


def _lifetime(file: StageFile, context: DoorContext) -> float:
    """Seconds. A duration that cannot be read falls back on the default, as the standard allows."""
    if file.disk_lifetime is None:
        return context.default_pin_seconds
    try:
        return min(parse_iso_duration(file.disk_lifetime), context.pin_seconds_max)
    except (ValueError, OverflowError):
        return context.default_pin_seconds


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a body asks for, in the catalog's words."""

    items: list[tuple[str, float]]
    cohorts: dict[str, int]
    activity: str
    priority: int


def _wanted(files: Sequence[StageFile], principal: Principal, context: DoorContext) -> _Wanted:
    """Activity and priority are the request's, and taken from its first file; cohorts are each file's own."""
    sites = (context.site_name, OWN_METADATA, ANY_SITE)
    numbers: dict[str, int] = {}
    items, cohorts = [], {}
    for file in files:
        path = _collapsed(file.path)
        items.append((path, _lifetime(file, context)))
        label = _text(_told(file, sites, "cohort"))
        if label:
            if label not in numbers:
                numbers[label] = staging.cohort_of(principal.owner, label)
            cohorts[path] = numbers[label]
    return _Wanted(
        items=items,
        cohorts=cohorts,
        activity=_text(_told(files[0], (context.site_name, ANY_SITE), "activity")),
        priority=priority_granted(_told(files[0], sites, "priority"), principal, context),
    )


def _told(file: StageFile, sites: Sequence[str], name: str) -> object:
    """What the metadata for one of these sites say, the first that says it; entries for others mean nothing here."""
    metadata = file.targeted_metadata or {}
    for site in sites:
        entry = metadata.get(site)
        if isinstance(entry, dict) and name in entry:
            return entry[name]
    return None


def _text(told: object) -> str:
    """What is no text is no error: the standard allows anything in metadata."""
    return told[:METADATA_TEXT_MAX].replace("\0", "") if isinstance(told, str) else ""


def _is_visible(principal: Principal, path: str) -> bool:
    try:
        return grants_cover(principal.grants, Action.POLL, _normal(path))
    except BadPath:
        return False


def _normal(path: str) -> str:
    return join_path(parse_path(path))


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())

"""Operators' calls: drives, libraries, volumes, pools, classes, requests, the queue, the cache.

Anybody with a token may look (except at others' requests); a change needs an administrator, a reason, and is audited
in its own transaction. The planner and the sessions are woken, so that it takes effect within a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import (
    failures,
    identity,
    listing,
    localities,
    namespace,
    pools,
    queues,
    reading,
    replicas,
    staging,
    volumes,
)
from catalog.database import CACHE, EVENTS, PLANNER, SESSIONS
from catalog.errors import BadRequest, Denied, NotFound, TooLarge
from catalog.model import RESERVED_FIRST_NAMES, Action, Principal, grants_cover, join_path, parse_path
from client import operatormessages as messages
from client.serving import json_body, json_response
from tapeserver.door.context import context_of, principal_of

KEPT_SHOWN_MAX = 1_000
DROP_PAGE = 1_000
#: a drop that waits answers after this, and the client asks again
DROP_WAIT_SECONDS_MAX = 20.0
_KINDS = {"drives": "drive", "libraries": "library", "volumes": "volume"}


async def listed(request: web.Request) -> web.Response:
    """drives, libraries, volumes, pools, storage-classes, cache: everything there is of it."""
    what = request.path.rstrip("/").rpartition("/")[2]
    async with context_of(request).database.connection() as connection:
        return json_response(messages.Items(items=await _items(connection, what)))


async def shown(request: web.Request) -> web.Response:
    """One library; drives and volumes are shown whole, see volumes."""
    name = request.match_info["name"]
    async with context_of(request).database.connection() as connection:
        for item in await _items(connection, "libraries"):
            if item["name"] == name:
                return json_response(item)
    raise NotFound(what=f"library {name}")


async def set_state(request: web.Request) -> web.Response:
    """Up and down, enabled and disabled, with a reason."""
    context, principal = context_of(request), administrator(request)
    kind, name = _KINDS[request.match_info["what"]], request.match_info["name"]
    body = await json_body(request, messages.StateBody)

    async def change(connection: AsyncConnection) -> bool:
        changed = await volumes.set_state(connection, kind, name, body.state, who=principal.owner, reason=body.reason)
        if kind == "drive" and body.state == "up":
            # Whoever says so has looked at it: what failed before is no evidence any more.
            await failures.clear(connection, drive=name)
        return changed

    changed = await context.database.run(change)
    for channel in (PLANNER, SESSIONS, EVENTS):
        context.database.wake(channel)
    return json_response({kind: name, "state": body.state, "changed": changed})


async def create_pool(request: web.Request) -> web.Response:
    principal = administrator(request)
    body = await json_body(request, messages.PoolBody)

    async def create(connection: AsyncConnection) -> None:
        if body.library not in [one.name for one in await volumes.list_libraries(connection)]:
            raise NotFound(what=f"library {body.library}")
        await volumes.create_pool(connection, name=body.name, library=body.library)
        await _record(connection, principal, "pool created", body.name, body, body.reason)
        if body.volumes_open_max is not None:
            await pools.change(
                connection, body.name, volumes_open_max=body.volumes_open_max, who=principal.owner,
                reason=body.reason or "created so",
            )  # fmt: skip

    await context_of(request).database.run(create)
    return web.Response(status=201)


async def create_storage_class(request: web.Request) -> web.Response:
    principal = administrator(request)
    body = await json_body(request, messages.StorageClassBody)

    async def create(connection: AsyncConnection) -> None:
        await volumes.create_storage_class(connection, **msgspec.structs.asdict(body))
        await _record(connection, principal, "storage class created", body.name, body)

    await context_of(request).database.run(create)
    return web.Response(status=201)


async def volume_files(request: web.Request) -> web.Response:
    """What lies on a volume, by position; a page."""
    vid = request.match_info["name"]
    position = (_number(request, "after_block", -1), _number(request, "after_offset", -1))
    limit = min(max(1, _number(request, "limit", listing.LIMIT_MAX)), listing.LIMIT_MAX)
    async with context_of(request).database.connection() as connection:
        await volumes.volume_at(connection, vid)
        files = await localities.volume_files(connection, vid, after=position, limit=limit)
    # Of a page, what the caller may see; the position goes on over the rest.
    principal = principal_of(request)
    visible = [file for file in files if grants_cover(principal.grants, Action.POLL, file.path)]
    if not principal.is_admin:
        visible = [file for file in visible if file.path.split("/")[1] not in RESERVED_FIRST_NAMES]
    following = (files[-1].first_block, files[-1].byte_offset) if len(files) >= limit else None
    return json_response(
        messages.VolumeFiles(files=[messages.VolumeFile(**reading.row_of(file)) for file in visible], next=following)
    )


async def queue(request: web.Request) -> web.Response:
    principal = principal_of(request)
    async with context_of(request).database.connection() as connection:
        view = await reading.queue_view(connection)
    if not principal.is_admin:
        view["requests"] = [one for one in view["requests"] if one["owner"] == principal.owner]
    return json_response(messages.QueueView(**view))


async def retry(request: web.Request) -> web.Response:
    """What waits for an operator, or for a pause to end, is tried now."""
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.RetryBody)
    if body.kind not in ("archives", "recalls", "all"):
        raise BadRequest(why=f"{body.kind!r} is not a queue; known are archives, recalls, all")
    reason = identity.reason_given(body.reason, object=f"queue {body.kind}")

    async def again(connection: AsyncConnection) -> int:
        count = await queues.retry_held(connection, kind=body.kind)
        await identity.audit(
            connection, who=principal.owner, action="queue retry", object=body.kind, reason=reason,
            detail={"retried": count},
        )  # fmt: skip
        return count

    retried = await context.database.run(again)
    context.database.wake(PLANNER)
    return json_response({"retried": retried})


async def requests(request: web.Request) -> web.Response:
    """One's own stage requests; an administrator sees all."""
    principal = principal_of(request)
    async with context_of(request).database.connection() as connection:
        found = await reading.requests(connection, owner=None if principal.is_admin else principal.owner)
    return json_response(messages.Items(items=found))


async def request_shown(request: web.Request) -> web.Response:
    principal, request_id = principal_of(request), _request_id(request)
    async with context_of(request).database.connection() as connection:
        found = await staging.request_at(connection, request_id)
        if principal.owner != found.owner and not principal.is_admin:
            raise Denied(owner=principal.owner, action="access", path=f"request {request_id}")
        states = await reading.item_states(connection, request_id)
    return json_response({**reading.row_of(found), "states": states})


async def request_cancel(request: web.Request) -> web.Response:
    """Everything of a request that is still live, cancelled; by its owner or an administrator, with a reason."""
    context, principal, request_id = context_of(request), principal_of(request), _request_id(request)
    body = await json_body(request, messages.ReasonBody)
    reason = identity.reason_given(body.reason, object=f"request {request_id}")

    async def cancel(connection: AsyncConnection) -> int:
        found = await staging.request_at(connection, request_id)
        if principal.owner != found.owner and not principal.is_admin:
            raise Denied(owner=principal.owner, action="cancel", path=f"request {request_id}")
        count = await staging.abandon_all(connection, request_id)
        await identity.audit(
            connection, who=principal.owner, action="request cancel", object=f"request {request_id}", reason=reason,
            detail={"cancelled": count},
        )  # fmt: skip
        return count

    cancelled = await context.database.run(cancel)
    for channel in (PLANNER, SESSIONS, EVENTS):
        context.database.wake(channel)
    return json_response({"cancelled": cancelled})


async def drop(request: web.Request) -> web.Response:
    """Evict every safe, unpinned replica at or below the paths now. What stays is counted with the reason.

    With `wait`, archives of files that are not safe become urgent, and the answer comes when all are safe or after
    20 s, whichever is first: `kept_count` then says what is still not, and the client asks again.
    """
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.DropBody, limit_bytes=context.json_bytes_max)
    if len(body.paths) > context.paths_max:
        raise TooLarge(what="the number of paths", actual=len(body.paths), limit=context.paths_max)
    paths = [parse_path(path) for path in body.paths]
    if body.wait:
        await _until_safe(request, paths)
    answer = messages.Dropped(dropped=0, bytes=0)
    counted: Counter[str] = Counter()
    for components in paths:
        async for page in _files_below(request, components):
            eviction = await context.database.run(
                partial(replicas.evict, file_ids=list(page), limit=replicas.EVICT_LIMIT)
            )
            answer.dropped += len(eviction.evicted)
            answer.bytes += sum(one.size for one in eviction.evicted)
            for file_id, why in eviction.kept:
                counted[why] += 1
                if len(answer.kept) < KEPT_SHOWN_MAX:
                    answer.kept.append(messages.Kept(path=page.get(file_id, f"file {file_id}"), why=why))
    answer.kept_count = dict(counted)
    async with context.database.transaction() as connection:
        await _record(connection, principal, "cache drop", " ".join(body.paths)[:1000], None, str(answer.dropped))
    context.database.wake(CACHE)
    return json_response(answer)


async def _until_safe(request: web.Request, paths: Sequence[tuple[str, ...]]) -> None:
    context = context_of(request)
    deadline = asyncio.get_running_loop().time() + DROP_WAIT_SECONDS_MAX
    while True:
        unsafe = 0
        for components in paths:
            async for page in _files_below(request, components):
                async with context.database.transaction() as connection:
                    places = await localities.places(connection, page)
                    waiting = [file_id for file_id, place in places.items() if not place.safe]
                    await queues.make_urgent(connection, waiting)
                unsafe += len(waiting)
        if not unsafe or asyncio.get_running_loop().time() > deadline:
            return
        context.database.wake(PLANNER)
        await asyncio.sleep(0.25)


async def _files_below(request: web.Request, components: tuple[str, ...]) -> AsyncIterator[dict[int, str]]:
    """Pages of file id -> path at or below a path. Raises NotFound for the first."""
    database = context_of(request).database
    base = join_path(components).rstrip("/")
    after = ""
    while True:
        async with database.connection() as connection:
            node = await namespace.existing(connection, components)
            if not node.is_directory:
                file = await namespace.file_at(connection, components)
                yield {file.file_id: file.path}
                return
            entries = await listing.walk(connection, node, after=after, limit=DROP_PAGE)
        yield {entry.file_id: f"{base}/{entry.path}" for entry in entries if entry.file_id is not None}
        if len(entries) < DROP_PAGE:
            return
        after = entries[-1].path


async def _items(connection: AsyncConnection, what: str) -> list[dict[str, Any]]:
    found: Sequence[Any]
    if what == "drives":
        found = await volumes.list_drives(connection)
    elif what == "libraries":
        found = await volumes.list_libraries(connection)
    elif what == "volumes":
        found = await volumes.list_volumes(connection)
    elif what == "pools":
        found = await pools.listed(connection)
    elif what == "storage-classes":
        found = await volumes.list_storage_classes(connection)
    else:
        found = await replicas.servers(connection)
    return [reading.row_of(one) for one in found]


def administrator(request: web.Request) -> Principal:
    """Who asks, when he may change what is everybody's. Raises Denied."""
    principal = principal_of(request)
    if not principal.is_admin:
        raise Denied(owner=principal.owner, action=str(Action.ADMIN), path="/")
    return principal


async def _record(
    connection: AsyncConnection, principal: Principal, action: str, object: str, body: Any, reason: str = ""
) -> None:
    detail = msgspec.to_builtins(body) if body is not None else {}
    await identity.audit(connection, who=principal.owner, action=action, object=object, reason=reason, detail=detail)


def _request_id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFound(what=f"request {text[:40]}")
    return int(text)


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        return min(int(text), 2**62)
    except ValueError as exc:
        raise BadRequest(why=f"{name} {text[:40]!r} is not a number") from exc

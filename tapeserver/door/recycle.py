"""The recycle bin over HTTP. Users see and restore what they may modify; administrators purge, with a reason."""

from __future__ import annotations

import time
from functools import partial

from aiohttp import web

from catalog import reading, recycle
from catalog.database import CACHE, EVENTS, PLANNER
from catalog.errors import TooLarge
from catalog.model import Action, grants_cover
from client import messages
from client.serving import json_body, json_response
from tapeserver.door.context import context_of, principal_of
from tapeserver.door.operators import administrator


async def listed(request: web.Request) -> web.Response:
    """A page of what the caller may restore; the position goes on over the rest."""
    context, grants = context_of(request), principal_of(request).grants
    body = await json_body(request, messages.RecycleListBody)
    limit = min(max(1, body.limit), recycle.LIMIT_MAX)
    async with context.database.connection() as connection:
        found = await recycle.listed(connection, prefix=body.prefix, after=body.after, limit=limit)
    files = []
    for one in found:
        if grants_cover(grants, Action.MODIFY, one.path):
            kept_until = one.deleted_at.timestamp() + context.recycle_days * 86400
            files.append(messages.RecycledFile(**reading.row_of(one), kept_until=kept_until))
    following = (found[-1].path, found[-1].file_id) if len(found) >= limit else None
    return json_response(messages.Recycled(files=files, next=following))


async def restore(request: web.Request) -> web.Response:
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.RestoreBody)
    work = partial(
        recycle.restore,
        principal=principal,
        file_id=body.file_id,
        path=body.path,
        to=body.to,
        parents=body.parents,
        mtime_ns=time.time_ns(),
    )
    restored = await context.database.run(work)
    for channel in (PLANNER, EVENTS):
        context.database.wake(channel)
    return json_response(messages.Restored(**reading.row_of(restored)))


async def purge(request: web.Request) -> web.Response:
    """A transaction for each page of files, so that a purge of millions holds up nobody."""
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.PurgeBody, limit_bytes=context.json_bytes_max)
    if body.file_ids is not None and len(body.file_ids) > context.paths_max:
        raise TooLarge(what="the number of files", actual=len(body.file_ids), limit=context.paths_max)
    answer = messages.Purged(files=0, bytes=0)
    work = partial(
        recycle.purge,
        who=principal.owner,
        reason=body.reason,
        file_ids=body.file_ids,
        prefix=body.prefix,
        older_than_seconds=body.older_than_seconds,
    )
    while True:
        found = await context.database.run(work)
        answer.files += found.files
        answer.bytes += found.bytes
        if found.files < recycle.LIMIT_MAX:
            break
    context.database.wake(CACHE)
    return json_response(answer)

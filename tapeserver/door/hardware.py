"""POST drives/NAME/model and volumes/VID/medium: an operator says what they are, where no library does.

Only what the table of compatibility knows is taken: a name that it does not know would fit everything, as no name does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from catalog import hardware
from catalog.database import PLANNER
from catalog.errors import BadRequest
from client import operatormessages as messages
from client.serving import json_body, json_response
from tapeserver import compatibility
from tapeserver.door.context import context_of
from tapeserver.door.operators import administrator

#: takes an operator's word back
AUTO = "auto"


async def drive_model(request: web.Request) -> web.Response:
    return await _said(
        request, "drive", compatibility.generation_of, sorted(compatibility.DRIVES), hardware.set_drive_model
    )


async def volume_medium(request: web.Request) -> web.Response:
    return await _said(
        request, "volume", compatibility.medium_named, sorted(compatibility.MEDIA), hardware.set_volume_medium
    )


async def _said(
    request: web.Request,
    what: str,
    known: Callable[[str], str | None],
    all_known: list[str],
    change: Callable[..., Awaitable[None]],
) -> web.Response:
    context, principal = context_of(request), administrator(request)
    name = request.match_info["name"]
    body = await json_body(request, messages.KindBody)
    kind = "" if body.kind == AUTO else known(body.kind)
    if kind is None:
        raise BadRequest(why=f"{body.kind[:40]!r} is not known; known are: {', '.join(all_known)}, {AUTO}")
    await context.database.run(
        lambda connection: change(connection, name, kind, who=principal.owner, reason=body.reason)
    )
    context.database.wake(PLANNER)
    return json_response({what: name, "kind": kind})

"""Operators' calls about who gets the drives: what was used, and the shares, limits and weights that the planner keeps.

Anybody with a token may look at the settings, and at his own usage; an administrator sees everybody's. A change needs
an administrator, a reason, and is audited in its own transaction. What comes of it is the planner's.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from catalog import reading, shares, usage
from catalog.database import PLANNER
from catalog.errors import BadRequest
from catalog.model import WeightRule
from client import operatormessages as messages
from client.serving import json_body, json_response
from tapeserver.door.context import context_of, principal_of
from tapeserver.door.operators import administrator

USAGE_SECONDS = 30 * 86400.0


async def usage_told(request: web.Request) -> web.Response:
    """?by=user|group|day&since=SECONDS, in whole days (UTC)."""
    principal, by = principal_of(request), request.query.get("by", "user")
    everybody = principal.is_admin
    async with context_of(request).database.connection() as connection:
        found = await usage.usage_of(
            connection,
            since_seconds=_since(request),
            by=by,
            # A group's sums are its members' to see; of users, and of days, everybody sees his own.
            owner=None if everybody or by == "group" else principal.owner,
            groups=principal.groups if by == "group" and not everybody else None,
        )
    items = [
        {
            key: value if key != "day" else value.isoformat()
            for key, value in reading.row_of(one).items()
            if value is not None
        }
        for one in found
    ]
    return json_response(messages.Items(items=items))


async def shares_listed(request: web.Request) -> web.Response:
    async with context_of(request).database.connection() as connection:
        found = await shares.shares(connection)
    return json_response(messages.Items(items=[reading.row_of(one) for one in found]))


async def share_set(request: web.Request) -> web.Response:
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.ShareBody)
    named = ("weight", "drive_seconds", "reading_drives", "writing_drives")
    changes = {name: value for name in named if (value := getattr(body, name)) is not msgspec.UNSET}
    if not changes:
        raise BadRequest(why=f"name what is to change: {', '.join(named)}")
    made = await context.database.run(
        lambda connection: shares.set_share(
            connection, body.group, body.owner, changes=changes, who=principal.owner, reason=body.reason
        )
    )
    context.database.wake(PLANNER)
    return json_response(reading.row_of(made))


async def share_removed(request: web.Request) -> web.Response:
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.ShareRemoval)
    await context.database.run(
        lambda connection: shares.remove_share(
            connection, body.group, body.owner, who=principal.owner, reason=body.reason
        )
    )
    context.database.wake(PLANNER)
    return json_response({"group": body.group, "owner": body.owner, "removed": True})


async def rules_listed(request: web.Request) -> web.Response:
    async with context_of(request).database.connection() as connection:
        found = await shares.rules(connection)
    items = [{"place": place, **reading.row_of(one)} for place, one in enumerate(found, 1)]
    return json_response(messages.Items(items=items))


async def rule_added(request: web.Request) -> web.Response:
    context, principal = context_of(request), administrator(request)
    body = await json_body(request, messages.RuleBody)
    rule = WeightRule(
        weight=body.weight, activity=body.activity, group=body.group, owner=body.owner,
        priority_min=body.priority_min, priority_max=body.priority_max,
    )  # fmt: skip
    place = await context.database.run(
        lambda connection: shares.add_rule(
            connection, rule, before=body.before, who=principal.owner, reason=body.reason
        )
    )
    context.database.wake(PLANNER)
    return json_response({"place": place, **reading.row_of(rule)})


async def rule_removed(request: web.Request) -> web.Response:
    context, principal, text = context_of(request), administrator(request), request.match_info["place"]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise BadRequest(why=f"{text[:40]!r} is not the place of a rule")
    body = await json_body(request, messages.ReasonBody)
    gone = await context.database.run(
        lambda connection: shares.remove_rule(connection, int(text), who=principal.owner, reason=body.reason)
    )
    context.database.wake(PLANNER)
    return json_response({"place": int(text), "removed": True, **reading.row_of(gone)})


def _since(request: web.Request) -> float:
    text = request.query.get("since", "")
    try:
        return float(text) if text else USAGE_SECONDS
    except ValueError as exc:
        raise BadRequest(why=f"since {text[:40]!r} is not a number of seconds") from exc

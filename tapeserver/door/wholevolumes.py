"""POST volumes/VID/stage: everything on a volume, or what is worth it, in stage requests of bounded size.

One call makes one request and says where the next goes on. A request made here is like any other: its files are read
from whatever copy is at hand when a drive is free, and what was asked for before is not read twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import staging, volumes, wholevolumes
from catalog.database import PLANNER
from catalog.errors import BadRequest
from catalog.model import RESERVED_FIRST_NAMES, Action, Principal, grants_cover
from catalog.wholevolumes import StoredFile
from client import operatormessages as messages
from client.serving import json_body, json_response
from tapeserver.door.context import DoorContext, context_of, principal_of
from tapeserver.door.staging import priority_granted
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.timelimits import medium_of
from tapeserver.wholevolume import worth_reading

REQUEST_FILES_MAX = 100_000
#: nothing on a volume of use says little: less than this is taken for this
CHANCE_MIN = 0.001
BY_ORDER, BY_COST = "order", "cost"


async def stage(request: web.Request) -> web.Response:
    """The next files of the volume that the caller may stage, as one request."""
    context, principal = context_of(request), principal_of(request)
    vid, body = request.match_info["name"], await json_body(request, messages.WholeVolumeBody)
    _check(body)
    async with context.database.connection() as connection:
        volume = await volumes.volume_at(connection, vid)
        spec = {one.name: one.spec for one in await volumes.list_libraries(connection)}[volume.library]
        chance = None
        if body.by == BY_COST:
            use = await wholevolumes.part_of_use(connection, vid) if body.chance is None else body.chance
            chance = max(CHANCE_MIN, use) if body.chance is None else use
        choice = _Choice(principal, _geometry(volume, spec) if body.by == BY_COST else None, volume.block_size, chance)
        limit = min(REQUEST_FILES_MAX, context.stage_files_max)
        await choice.fill(connection, vid, body, limit=limit)
    request_id = await _request(context, principal, body, choice) if choice.paths else None
    return json_response(
        messages.WholeVolumePart(
            request_id=request_id,
            files=len(choice.paths),
            bytes=choice.bytes,
            on_disk_files=choice.on_disk,
            left_out_files=choice.left_out,
            denied_files=choice.denied,
            full=choice.full,
            chance=chance,
            next=choice.position,
        )
    )


async def _request(context: DoorContext, principal: Principal, body: messages.WholeVolumeBody, choice: _Choice) -> str:
    lifetime = context.default_pin_seconds
    if body.lifetime_seconds is not None:
        lifetime = min(max(1.0, body.lifetime_seconds), context.pin_seconds_max)
    make = partial(
        staging.create_request,
        principal=principal,
        items=[(path, lifetime) for path in choice.paths],
        activity=body.activity,
        priority=priority_granted(body.priority, principal, context),
        # These are of use each by itself: whoever wants some of them together says so himself.
        cohorts=dict.fromkeys(choice.paths, 0),
    )
    made = await context.database.run(make)
    context.database.wake(PLANNER)
    return str(made)


@dataclass(slots=True)
class _Choice:
    """What one request takes of a volume."""

    principal: Principal
    #: None: everything, in order
    geometry: Geometry | None
    block_size: int
    chance: float | None
    paths: list[str] = field(default_factory=list)
    bytes: int = 0
    on_disk: int = 0
    left_out: int = 0
    denied: int = 0
    #: what may be taken is taken; the volume has more
    full: bool = False
    #: where the next request goes on; None: the volume is through
    position: tuple[int, int] | None = None

    async def fill(self, connection: AsyncConnection, vid: str, body: messages.WholeVolumeBody, *, limit: int) -> None:
        """Page by page, up to `limit` files."""
        self.position = body.after or (-1, -1)
        while self.position is not None and len(self.paths) < limit:
            page = await wholevolumes.page_of(connection, vid, after=self.position, limit=wholevolumes.PAGE_FILES)
            self._take(page, limit, body.bytes_max)
            if self.full or (len(page) < wholevolumes.PAGE_FILES and len(self.paths) < limit):
                self.position = None

    def _take(self, page: list[StoredFile], limit: int, bytes_max: int | None) -> None:
        worth = self._worth(page)
        for one, take in zip(page, worth, strict=True):
            if len(self.paths) == limit:
                return
            if not self._may_stage(one.path):
                self.denied += 1
            elif not take:
                self.left_out += 1
            elif bytes_max is not None and self.bytes + one.size > bytes_max:
                self.full = True
                return
            else:
                self.paths.append(one.path)
                self.bytes += one.size
                self.on_disk += one.on_disk
            self.position = (one.first_block, one.byte_offset)

    def _may_stage(self, path: str) -> bool:
        # What is the system's own is no file of anybody's.
        reserved = path.split("/")[1] in RESERVED_FIRST_NAMES
        return not reserved and grants_cover(self.principal.grants, Action.STAGE, path)

    def _worth(self, page: list[StoredFile]) -> list[bool]:
        if self.geometry is None or self.chance is None:
            return [True] * len(page)
        # What is on disk is not read: it is taken, and costs nothing.
        absent = [one for one in page if not one.on_disk]
        starts = np.array([one.first_block * self.block_size + one.byte_offset for one in absent], dtype=np.int64)
        lengths = np.array([one.size for one in absent], dtype=np.int64)
        wanted = np.array([one.wanted for one in absent], dtype=np.bool_)
        told = iter(worth_reading(self.geometry, starts, lengths, wanted, chance=self.chance).tolist())
        return [True if one.on_disk else next(told) for one in page]


def _geometry(volume: volumes.Volume, spec: dict[str, Any]) -> Geometry:
    """Raises BadRequest: without a model of the medium nobody knows what coming back costs."""
    named = spec.get("medium")
    medium = medium_of(volume.capacity_bytes, volume.medium or (named if isinstance(named, str) else None))
    try:
        return Geometry(model_of(medium), volume.capacity_bytes or None)
    except ValueError as exc:
        raise BadRequest(
            why=f"the medium of {volume.vid} is not known, and so not what reading it costs; stage it by order"
        ) from exc


def _check(body: messages.WholeVolumeBody) -> None:
    if body.by not in (BY_ORDER, BY_COST):
        raise BadRequest(why=f"a volume is staged by {BY_ORDER} or by {BY_COST}, not by {body.by[:40]!r}")
    if body.chance is not None and not 0 <= body.chance <= 1:
        raise BadRequest(why="a chance is from 0 to 1")
    if len(body.activity) > 200 or "\0" in body.activity:
        raise BadRequest(why="an activity has at most 200 characters")

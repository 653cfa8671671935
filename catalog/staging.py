"""Stage requests: "these files on disk, for this long". Accepted fast as text, resolved in chunks, ended per file.

Ownership and the shape of HTTP are the door's. What happens to items when files arrive is in stage_items, whose
functions are offered here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity, namespace, queues, tables
from catalog.database import copy_rows
from catalog.errors import BadPath, NotFound, NotInRequest
from catalog.model import Action, Grant, Principal, grants_cover, join_path, parse_path
from catalog.queues import Answer
from catalog.recalls import HEARTBEAT_SECONDS_MAX
from catalog.sql import load
from catalog.stage_items import complete_items, count_down, fail_items, lock_requests, start_items
from catalog.states import ItemState

__all__ = [
    "CHUNK_ITEMS", "DEFAULT_PRIORITY", "Item", "Request", "abandon_all", "cancel", "complete_items", "create_request",
    "delete", "fail_items", "items_of", "lock_requests", "look_again_seconds", "next_unresolved", "reconcile",
    "release", "request_at", "request_for_get", "resolve_chunk", "start_items",
]  # fmt: skip

SQL = load("staging")
CHUNK_ITEMS = 10_000
#: the files of a request that are fewer are wanted together; a bulk request uses what comes first
COHORT_FILES_MAX = 1000
DEFAULT_PRIORITY = 50
#: what was deleted by its owner is history for so long
HISTORY_DAYS = 90
#: what anybody may ask for lies within these; what is below is Capstan's own
PRIORITY_MIN, PRIORITY_MAX = 11, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    id: int
    owner: str
    origin: str
    state: str
    activity: str
    items: int
    items_live: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    path: str
    state: str
    error_code: str | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


async def create_request(
    connection: AsyncConnection,
    principal: Principal,
    items: Mapping[str, float] | Sequence[tuple[str, float]],
    *,
    activity: str = "",
    priority: int = DEFAULT_PRIORITY,
    origin: str = "stage",
    cohorts: Mapping[str, int] | None = None,
) -> int:
    """Record a request for these (path, pin lifetime in seconds); its id. Paths are not looked at yet; a path that
    comes twice counts once, with the longest lifetime. The caller wakes the planner.

    Files that are of use only together are a cohort: what `cohorts` (path -> number, from `cohort_of`) says, else the
    files of the request, unless they are so many that nobody waits for the last one to begin with the first.
    """
    wanted: dict[str, float] = {}
    for path, lifetime in items.items() if isinstance(items, Mapping) else items:
        wanted[path] = max(lifetime, wanted.get(path, 0.0))
    request_id = await connection.scalar(
        sa.text(SQL["insert_request"]),
        {
            "owner": principal.owner,
            "token": principal.token_id,
            "origin": origin,
            "activity": activity,
            "priority": priority,
            "items": len(wanted),
        },
    )
    together = int(request_id) if 1 < len(wanted) <= COHORT_FILES_MAX else 0
    await copy_rows(
        connection,
        "stage_item",
        ("request", "number", "path", "lifetime_seconds", "cohort"),
        (
            (request_id, number, path, lifetime, (cohorts or {}).get(path, together))
            for number, (path, lifetime) in enumerate(wanted.items(), 1)
        ),
    )
    return int(request_id)


def cohort_of(owner: str, label: str) -> int:
    """The number of the cohort that this owner calls `label`: below zero, where no request has its own."""
    digest = hashlib.blake2b(f"{owner}\0{label}".encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(digest, "big") >> 1)


async def next_unresolved(connection: AsyncConnection, after: int = 0) -> int | None:
    """The oldest request behind `after` with items that nobody resolves now; held until the transaction ends."""
    found: int | None = await connection.scalar(sa.text(SQL["next_unresolved"]), {"after": after})
    return found


async def resolve_chunk(
    connection: AsyncConnection, request_id: int, *, after: int = 0, limit: int = CHUNK_ITEMS
) -> int | None:
    """Find the files of the next items behind number `after`: complete those on disk, ask for the recall of others.

    Returns the number of the last item to go on behind, None when nothing is left. Each item gets its own error:
    path not allowed, no right, missing, a directory, no copy. The caller wakes the planner.
    """
    request = (await connection.execute(sa.text(SQL["lock_request"]), {"id": request_id})).one_or_none()
    if request is None or request.items_live == 0:
        return None
    values = {"request": request_id, "after": after, "limit": limit}
    items = (await connection.execute(sa.text(SQL["unresolved_items"]), values)).all()
    if not items:
        await connection.execute(sa.text(SQL["mark_resolved"]), {"id": request_id})
        return None
    submitter = await identity.principal_of_token(connection, request.token) if request.token is not None else None
    outcomes = _judge([item.path for item in items], submitter.grants if submitter else ())
    await _find_files(connection, outcomes)
    await _look_on_disk(connection, outcomes)
    cohorts = {one.file_id: item.cohort for one, item in zip(outcomes, items, strict=True) if one.file_id is not None}
    await _ask_for_recalls(connection, outcomes, request, submitter.group if submitter else request.owner, cohorts)
    numbers = [item.number for item in items]
    await connection.execute(
        sa.text(SQL["set_items"]),
        {
            "request": request_id,
            "numbers": numbers,
            "states": [str(outcome.state) for outcome in outcomes],
            "files": [outcome.file_id for outcome in outcomes],
            "codes": [outcome.error_code for outcome in outcomes],
            "errors": [outcome.error for outcome in outcomes],
        },
    )
    await connection.execute(sa.text(SQL["pin_completed"]), {"request": request_id, "numbers": numbers})
    await count_down(connection, request_id, sum(not outcome.is_open for outcome in outcomes))
    if len(items) == limit:
        return int(numbers[-1])
    await connection.execute(sa.text(SQL["mark_resolved"]), {"id": request_id})
    return None


async def request_for_get(
    connection: AsyncConnection, principal: Principal, *, file_id: int, path: str, lifetime_seconds: float
) -> int:
    """The one live request that this owner's GETs of the file have made, made now if there is none; its id."""
    owned = {"owner": principal.owner, "file": file_id}
    await connection.execute(sa.text(SQL["lock_get"]), owned)
    found = await connection.scalar(sa.text(SQL["live_get"]), owned)
    if found is not None:
        return int(found)
    request_id = await create_request(connection, principal, [(path, lifetime_seconds)], origin="get")
    await resolve_chunk(connection, request_id)
    return request_id


async def look_again_seconds(connection: AsyncConnection, file_id: int) -> float:
    """When it makes sense to ask for a file again whose recall is under way: 1 to 5 s, by how far it has come."""
    seconds = await connection.scalar(sa.text(SQL["look_again_seconds"]), {"file": file_id})
    return float(seconds) if seconds is not None else 1.0


async def request_at(connection: AsyncConnection, request_id: int) -> Request:
    """Raises NotFound."""
    columns = [tables.stage_request.c[name] for name in Request.__dataclass_fields__]
    table = tables.stage_request
    statement = sa.select(*columns).where(table.c.id == request_id, table.c.forgotten_at.is_(None))
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise NotFound(what=f"request {request_id}")
    return Request(**row._mapping)


async def items_of(connection: AsyncConnection, request_id: int) -> AsyncIterator[Item]:
    """The items in the order of submission, streamed: there may be a million."""
    columns = [tables.stage_item.c[name] for name in Item.__dataclass_fields__]
    number = tables.stage_item.c.number
    after = 0
    while True:
        statement = sa.select(number, *columns).where(tables.stage_item.c.request == request_id, number > after)
        rows = (await connection.execute(statement.order_by(number).limit(CHUNK_ITEMS))).all()
        for row in rows:
            yield Item(
                path=row.path, state=row.state, error_code=row.error_code, error=row.error,
                started_at=row.started_at, finished_at=row.finished_at,
            )  # fmt: skip
        if len(rows) < CHUNK_ITEMS:
            return
        after = rows[-1].number


async def cancel(connection: AsyncConnection, request_id: int, paths: Sequence[str]) -> int:
    """Take the request's wish for these files back; the number of items that were live.

    Raises NotFound, or NotInRequest when a path is foreign to the request: then nothing was done.
    """
    await _lock(connection, request_id)
    values = {"request": request_id, "paths": sorted(set(paths))}
    foreign = await connection.scalar(sa.text(SQL["foreign_paths"]), values)
    if foreign is not None:
        raise NotInRequest(path=foreign, request=request_id)
    return await _cancelled(connection, request_id, "cancel_items", values)


async def abandon_all(connection: AsyncConnection, request_id: int) -> int:
    """Cancel everything of the request that is live; the number of items. Raises NotFound."""
    await _lock(connection, request_id)
    return await _cancelled(connection, request_id, "cancel_all", {"request": request_id})


async def delete(connection: AsyncConnection, request_id: int) -> None:
    """Cancel what is live, drop the request's pins, forget it but for `catalog.history`. Raises NotFound.

    What Capstan asked for itself is no history.
    """
    await abandon_all(connection, request_id)
    await connection.execute(sa.text(SQL["unpin_request"]), {"owner": f"request:{request_id}"})
    await connection.execute(sa.text(SQL["forget_repair"]), {"id": request_id})
    await connection.execute(sa.text(SQL["forget"]), {"id": request_id})
    await connection.execute(sa.text(SQL["forget_for_good"]), {"days": HISTORY_DAYS})


async def release(
    connection: AsyncConnection, principal: Principal, request_id: int | None, paths: Sequence[str]
) -> int:
    """Drop the pins on these paths that the request holds; with None those of all of the principal's requests.

    Paths that mean nothing are passed over: a release is never an error. The number of pins dropped.
    """
    if request_id is not None:
        values = {"request": request_id, "paths": sorted(set(paths))}
        return (await connection.execute(sa.text(SQL["unpin_items"]), values)).rowcount
    outcomes = _judge(paths, [Grant(action=Action.STAGE, prefix="/")])
    await _find_files(connection, outcomes)
    files = sorted({outcome.file_id for outcome in outcomes if outcome.file_id is not None})
    owned = {"files": files, "owner": principal.owner}
    return (await connection.execute(sa.text(SQL["unpin_own"]), owned)).rowcount


async def reconcile(connection: AsyncConnection, *, after: int = 0, limit: int = CHUNK_ITEMS) -> int | None:
    """Help items whose recall is gone, a window of files behind `after` at a time: complete them when the file is on
    disk, else ask for the recall again or fail them. The last file id to go on behind, None at the end.

    Nothing should ever need this; it is the net below every path that ends a recall.
    """
    rows = (await connection.execute(sa.text(SQL["stranded"]), {"after": after, "limit": limit})).all()
    stranded = [row.file for row in rows if not row.has_recall]
    if stranded:
        on_disk = await _on_disk(connection, stranded)
        await complete_items(connection, sorted(on_disk))
        missing = [file_id for file_id in stranded if file_id not in on_disk]
        answers = await queues.request_recalls(
            connection, missing, owner="capstan", group="capstan", activity="", priority=DEFAULT_PRIORITY
        )
        hopeless = [file_id for file_id in missing if answers[file_id].answer is Answer.NO_COPY]
        await fail_items(connection, [(file_id, "lost", answers[file_id].error) for file_id in hopeless])
    return rows[-1].file if len(rows) == limit else None


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """What becomes of one item while its chunk is resolved."""

    path: str
    state: ItemState = ItemState.STARTED
    file_id: int | None = None
    error_code: str | None = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state is ItemState.STARTED

    def fail(self, code: str, error: str) -> None:
        self.state, self.error_code, self.error = ItemState.FAILED, code, error


def _judge(paths: Sequence[str], grants: Sequence[Grant]) -> list[_Outcome]:
    """The normal form of each path, and who may not stage it."""
    outcomes = []
    for path in paths:
        outcome = _Outcome(path=path)
        try:
            outcome.path = join_path(parse_path(path))
        except BadPath as error:
            outcome.fail(error.code, str(error))
        else:
            if not grants_cover(grants, Action.STAGE, outcome.path):
                outcome.fail("denied", f"The token does not grant stage on {outcome.path}.")
        outcomes.append(outcome)
    return outcomes


async def _find_files(connection: AsyncConnection, outcomes: Sequence[_Outcome]) -> None:
    wanted = [outcome for outcome in outcomes if outcome.is_open]
    targets = await namespace.resolve_many(connection, [outcome.path for outcome in wanted])
    for outcome, target in zip(wanted, targets, strict=True):
        if target.kind is None:
            outcome.fail("not_found", f"{outcome.path} does not exist.")
        elif target.file_id is None:
            outcome.fail("is_a_directory", f"{outcome.path} is a directory, not a file.")
        else:
            outcome.file_id = target.file_id


async def _on_disk(connection: AsyncConnection, file_ids: Sequence[int]) -> set[int]:
    """Those with a replica on a live server, which stays until this transaction ends."""
    values = {"files": list(file_ids), "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}
    return set((await connection.execute(sa.text(SQL["lock_on_disk"]), values)).scalars())


async def _look_on_disk(connection: AsyncConnection, outcomes: Sequence[_Outcome]) -> None:
    wanted = sorted({item.file_id for item in outcomes if item.file_id is not None})
    found = await _on_disk(connection, wanted) if wanted else set()
    for outcome in outcomes:
        if outcome.is_open and outcome.file_id in found:
            outcome.state = ItemState.COMPLETED


async def _ask_for_recalls(
    connection: AsyncConnection,
    outcomes: Sequence[_Outcome],
    request: sa.Row[tuple[object, ...]],
    group: str,
    cohorts: Mapping[int, int],
) -> None:
    wanted = sorted({item.file_id for item in outcomes if item.is_open and item.file_id is not None})
    if not wanted:
        return
    answers = await queues.request_recalls(
        connection,
        wanted,
        owner=request.owner,
        group=group,
        activity=request.activity,
        priority=request.priority,
        cohorts=cohorts,
    )
    for outcome in outcomes:
        if outcome.is_open and outcome.file_id is not None and answers[outcome.file_id].answer is Answer.NO_COPY:
            outcome.fail("lost", answers[outcome.file_id].error)
    # What arrived between the two looks has no recall.
    await _look_on_disk(connection, [item for item in outcomes if item.is_open])


async def _lock(connection: AsyncConnection, request_id: int) -> None:
    if (await connection.execute(sa.text(SQL["lock_request"]), {"id": request_id})).one_or_none() is None:
        raise NotFound(what=f"request {request_id}")


async def _cancelled(connection: AsyncConnection, request_id: int, statement: str, values: Mapping[str, object]) -> int:
    files = list((await connection.execute(sa.text(SQL[statement]), values)).scalars())
    if files:
        await count_down(connection, request_id, len(files))
        await queues.abandon_recalls(connection, sorted({file_id for file_id in files if file_id is not None}))
    return len(files)

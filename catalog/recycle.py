"""The recycle bin: removed and overwritten files that still lie on tape. List, restore, purge.

A file comes here with `namespace.remove_file` and leaves by a restore, a purge, or the reclaim of its volumes, which
`volumes` does. Nothing here reads or writes a tape: a restored file is where its copies are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events, failures, identity, namespace, queues
from catalog.errors import BadRequest, Exists, NotFound, Refused
from catalog.model import Action, Principal, authorize, join_path, parse_path
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("recycle").items()}
LIMIT_MAX = 10_000
#: A purged file's row stays for so long. A crash between a flush and its commit leaves a whole copy on the tape, which
#: the next mount of that volume finds; with the row it is known as nobody's, without it it would come back to life.
PURGED_KEPT_SECONDS = 30 * 86400.0
_DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A file in the bin."""

    file_id: int
    #: where it was when it was removed
    path: str
    size: int
    owner: str
    group: str
    storage_class: str
    deleted_at: datetime
    deleted_by: str | None
    #: those that may be read, now or later
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    file_id: int
    path: str
    #: archives that were queued for copies that it lacks; what is on no disk is recalled first
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    files: int
    bytes: int


async def listed(
    connection: AsyncConnection, *, prefix: str = "/", after: tuple[str, int] = ("", 0), limit: int = LIMIT_MAX
) -> list[Deleted]:
    """What was removed at and below `prefix`, in the order of paths, behind (path, file id); fewer at the end."""
    values = {
        "prefix": join_path(parse_path(prefix)),
        "after_path": after[0][:200],
        "after_id": after[1],
        "limit": min(limit, LIMIT_MAX),
    }
    return [Deleted(**row._mapping) for row in await connection.execute(_SQL["listed"], values)]


async def newest_at(connection: AsyncConnection, path: str) -> int | None:
    """The file that was removed last from a path, or None."""
    found: int | None = await connection.scalar(_SQL["newest_at"], {"path": join_path(parse_path(path))})
    return found


async def deleted_at(connection: AsyncConnection, file_id: int) -> Deleted:
    """One file of the bin. Raises NotFound."""
    path = await connection.scalar(
        sa.text("select deleted_path from file where id = :file and state = 'deleted'"), {"file": file_id}
    )
    if path is not None:
        for one in await listed(connection, prefix=path, after=(path[:200], file_id - 1), limit=1):
            if one.file_id == file_id:
                return one
    raise NotFound(what=f"file {file_id} in the recycle bin")


async def restore(
    connection: AsyncConnection,
    *,
    principal: Principal,
    file_id: int | None = None,
    path: str | None = None,
    to: str | None = None,
    parents: bool = False,
    mtime_ns: int = 0,
) -> Restored:
    """A removed file gets a name again: its old one, or `to`. By its id, or by its path: of several the newest.

    Whoever does it must be allowed to modify both names. `parents`: missing directories are made, with `mtime_ns`.
    The caller wakes PLANNER and EVENTS. Raises NotFound, Denied, Exists, ParentMissing, Refused (its copies are gone).
    """
    if (file_id is None) == (path is None):
        raise BadRequest(why="say which file by its id or by its path")
    if path is not None:
        authorize(principal, Action.MODIFY, join_path(parse_path(path)))
        file_id = await newest_at(connection, path)
    what = path or f"file {file_id}"
    await connection.execute(_SQL["hold_volumes"], {"file": file_id})
    row = (await connection.execute(_SQL["lock_file"], {"file": file_id})).one_or_none()
    if row is None or row.state != "deleted" or file_id is None:
        raise NotFound(what=f"{what} in the recycle bin")
    authorize(principal, Action.MODIFY, row.deleted_path)
    components = parse_path(to or row.deleted_path)
    target = join_path(components)
    authorize(principal, Action.MODIFY, target)
    if not row.has_bytes:
        raise Refused(why=f"the copies of {row.deleted_path} were given up with their volumes; nothing can be restored")
    if parents and len(components) > 1:
        await namespace.make_directory(
            connection, components[:-1], owner=principal.owner, group=principal.group, mode=_DIRECTORY_MODE,
            mtime_ns=mtime_ns, parents=True,
        )  # fmt: skip
    parent = await namespace.parent_of(connection, components)
    node = await connection.scalar(_SQL["insert_name"], {"parent": parent.id, "name": components[-1]})
    if node is None:
        raise Exists(path=target)
    await connection.execute(_SQL["restore"], {"file": file_id, "node": node})
    queued = await queues.enqueue_archives(connection, [file_id])
    # Removed before all its copies were made, its bytes have left the disk: what is missing comes from another copy.
    await failures.request_repairs(connection, [file_id])
    await events.emit(connection, "file.restored", target, {"file_id": file_id, "size": row.size})
    return Restored(file_id=file_id, path=target, queued=queued)


async def purge(
    connection: AsyncConnection,
    *,
    who: str,
    reason: str,
    file_ids: Collection[int] | None = None,
    prefix: str | None = None,
    older_than_seconds: float | None = None,
    limit: int = LIMIT_MAX,
) -> Purged:
    """Give up what all the given conditions choose, at most `limit` files of it; it cannot be restored any more.

    What of their tapes they take is free when those are reclaimed. Raises BadRequest (no condition), ReasonRequired.
    """
    if file_ids is None and prefix is None and older_than_seconds is None:
        raise BadRequest(why="say which files are to be purged: by id, by path, or by age")
    reason = identity.reason_given(reason, object="recycle bin")
    under = None if prefix is None else join_path(parse_path(prefix))
    values = {
        "files": None if file_ids is None else sorted(file_ids),
        "prefix": under,
        "older_than_seconds": older_than_seconds,
        "limit": min(limit, LIMIT_MAX),
    }
    row = (await connection.execute(_SQL["purge"], values)).one()
    found = Purged(files=row.files, bytes=row.bytes)
    if found.files:
        detail: dict[str, Any] = {"files": found.files, "bytes": found.bytes, "older_than_seconds": older_than_seconds}
        if file_ids is not None:
            detail["file_ids"] = sorted(file_ids)[:1000]
        await identity.audit(
            connection, who=who, action="recycle purge", object=under or "files", reason=reason, detail=detail
        )
    return found


async def forget(connection: AsyncConnection, *, limit: int = 1_000) -> int:
    """Remove the rows of purged files that nothing refers to any more, at most `limit`; how many. For a slow round."""
    values = {"kept_seconds": PURGED_KEPT_SECONDS, "limit": limit}
    return len((await connection.execute(_SQL["forget"], values)).all())

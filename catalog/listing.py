"""Directories in pages: one level by name, or whole trees in the order of their paths, with where the bytes are.

Keyset paging: a page starts behind a name, so that a directory of millions costs the same at its end as at its
beginning, and what is made or removed meanwhile disturbs nothing. First names that are Capstan's own are not shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import localities
from catalog.localities import Places
from catalog.model import RESERVED_FIRST_NAMES
from catalog.namespace import Node
from catalog.sql import load

SQL = load("reading")
LIMIT_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A name in a listing. What only files have is None for a directory."""

    #: relative to the directory that was listed: a name, or names joined by `/`
    path: str
    name: str
    node: int
    kind: str
    mtime_ns: int
    mode: int
    owner: str
    group: str
    storage_class: str | None
    file_id: int | None = None
    size: int = 0
    adler32: str | None = None
    digests: dict[str, str] | None = None
    created_at: datetime | None = None
    places: Places | None = None

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"


async def list_directory(
    connection: AsyncConnection, node: Node, *, after: str = "", limit: int = LIMIT_MAX
) -> list[Entry]:
    """The next names of one directory behind the name `after`, in byte order; fewer than `limit` at the end."""
    rows = await _page(connection, node.id, after, min(limit, LIMIT_MAX), at_root=node.parent is None)
    return await _with_places(connection, [(row.name, row) for row in rows])


async def walk(connection: AsyncConnection, node: Node, *, after: str = "", limit: int = LIMIT_MAX) -> list[Entry]:
    """The next names below a directory behind the relative path `after`: each directory, then what it holds, then its
    next sibling. `after` need not exist any more."""
    limit = min(limit, LIMIT_MAX)
    found: list[tuple[str, sa.Row[Any]]] = []
    stack = await _reopen(connection, node, after)
    while stack and len(found) < limit:
        level = stack[-1]
        if not level.rows:
            at_root = level.node == node.id and node.parent is None
            level.rows.extend(await _page(connection, level.node, level.behind, limit - len(found), at_root=at_root))
        if not level.rows:
            stack.pop()
            continue
        row = level.rows.popleft()
        level.behind = row.name
        found.append((level.prefix + row.name, row))
        if row.kind == "directory":
            stack.append(_Level(node=row.id, prefix=f"{level.prefix}{row.name}/"))
    return await _with_places(connection, found)


async def entry_of(connection: AsyncConnection, node: Node, path: str) -> Entry | None:
    """One node as a listing shows it; None when it has just gone."""
    row = (await connection.execute(sa.text(SQL["one"]), {"id": node.id})).one_or_none()
    return None if row is None else (await _with_places(connection, [(path, row)]))[0]


@dataclass(slots=True, kw_only=True)
class _Level:
    """A directory that a walk is in: where it goes on, and what it has read ahead."""

    node: int
    prefix: str
    behind: str = ""
    rows: deque[sa.Row[Any]] = field(default_factory=deque)


async def _reopen(connection: AsyncConnection, node: Node, after: str) -> list[_Level]:
    """The levels of a walk that has just passed `after`, outermost first."""
    stack = [_Level(node=node.id, prefix="")]
    for name in [part for part in after.split("/") if part]:
        level = stack[-1]
        level.behind = name
        child = await connection.scalar(sa.text(SQL["child_directory"]), {"parent": level.node, "name": name})
        if child is None:
            break
        stack.append(_Level(node=child, prefix=f"{level.prefix}{name}/"))
    return stack


async def _page(
    connection: AsyncConnection, parent: int, after: str, limit: int, *, at_root: bool
) -> Sequence[sa.Row[Any]]:
    hidden = sorted(RESERVED_FIRST_NAMES) if at_root else []
    values = {"parent": parent, "after": after, "limit": limit, "hidden": hidden}
    return (await connection.execute(sa.text(SQL["page"]), values)).all()


async def _with_places(connection: AsyncConnection, rows: Sequence[tuple[str, sa.Row[Any]]]) -> list[Entry]:
    places = await localities.places(connection, [row.file_id for _, row in rows if row.file_id is not None])
    return [
        Entry(
            path=path,
            name=row.name,
            node=row.id,
            kind=row.kind,
            mtime_ns=row.mtime_ns,
            mode=row.mode,
            owner=row.owner,
            group=row.grp,
            storage_class=row.storage_class,
            file_id=row.file_id,
            size=row.size or 0,
            adler32=row.adler32,
            digests=row.digests,
            created_at=row.created_at,
            places=places.get(row.file_id) if row.file_id is not None else None,
        )
        for path, row in rows
    ]

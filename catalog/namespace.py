"""The namespace: names, directories, and which file a name means. Paths come in as components (`model.parse_path`).

Says nothing of rights (the door does), and nothing of where a file's bytes are (see localities). A file's row is
made by `puts.commit`; here it only loses its name. What becomes of it then is in recycle.py, listing in listing.py.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events, queues, stage_items, tables
from catalog.database import violates
from catalog.errors import (
    Exists,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    ParentMissing,
    Refused,
    UnknownStorageClass,
)
from catalog.model import FileRecord, join_path
from catalog.records import record_of as record_of
from catalog.sql import load

SQL = load("namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: int
    #: of the root: None
    parent: int | None
    name: str
    kind: str

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path of many names: `kind` is None where nothing is."""

    kind: str | None
    file_id: int | None = None
    size: int = 0


async def resolve(connection: AsyncConnection, components: Sequence[str]) -> Node | None:
    """The node of a path, or None; `()` is the root."""
    way = await _walk(connection, components)
    return way[-1] if len(way) == len(components) + 1 else None


async def resolve_many(connection: AsyncConnection, paths: Sequence[str]) -> list[Target]:
    """What each path names, in their order, with one statement; paths are absolute, without double or last slashes."""
    found: list[Target] = [Target(kind=None)] * len(paths)
    rows = await connection.execute(
        sa.text(SQL["walk_many"]),
        {
            "numbers": [number for number, path in enumerate(paths) if path != "/"],
            "paths": [path for path in paths if path != "/"],
        },
    )
    for row in rows:
        if row.kind == "directory" or row.file is not None:
            found[row.number] = Target(kind=row.kind, file_id=row.file, size=row.size or 0)
    return [Target(kind="directory") if path == "/" else target for path, target in zip(paths, found, strict=True)]


async def file_at(connection: AsyncConnection, components: Sequence[str]) -> FileRecord:
    """The file of a path. Raises NotFound, IsADirectory, NotADirectory (a file stands in the way)."""
    node = await existing(connection, components)
    if node.is_directory:
        raise IsADirectory(path=join_path(components))
    row = (await connection.execute(sa.select(tables.file).where(tables.file.c.node == node.id))).one_or_none()
    if row is None:
        # Removed between the two statements.
        raise NotFound(what=join_path(components))
    return record_of(row, join_path(components))


async def existing(connection: AsyncConnection, components: Sequence[str]) -> Node:
    """The node of a path. Raises NotFound, or NotADirectory when a file stands in the way."""
    way = await _walk(connection, components)
    if len(way) == len(components) + 1:
        return way[-1]
    if not way[-1].is_directory:
        raise NotADirectory(path=join_path(components[: len(way) - 1]))
    raise NotFound(what=join_path(components))


async def parent_of(connection: AsyncConnection, components: Sequence[str]) -> Node:
    """The directory that a new name goes into, held against removal. Raises ParentMissing, NotADirectory, Refused."""
    if not components:
        raise Refused(why="/ is the root of the namespace")
    way = await _walk(connection, components[:-1])
    if not way[-1].is_directory:
        raise NotADirectory(path=join_path(components[: len(way) - 1]))
    if len(way) < len(components):
        raise ParentMissing(path=join_path(components[:-1]))
    await _hold(connection, way[-1], components[:-1])
    return way[-1]


async def records(connection: AsyncConnection, file_ids: Collection[int]) -> dict[int, FileRecord]:
    """Live files by id; their `path` is the one they were stored under."""
    statement = sa.select(tables.file).where(
        tables.file.c.id == sa.func.any(sa.cast(sorted(file_ids), sa.ARRAY(sa.BigInteger))),
        tables.file.c.state == "live",
    )
    rows = (await connection.execute(statement)).all() if file_ids else []
    return {row.id: record_of(row, row.stored_path) for row in rows}


async def paths_of(connection: AsyncConnection, file_ids: Collection[int]) -> dict[int, str]:
    """file id -> its present path, of live files."""
    rows = await connection.execute(sa.text(SQL["paths_of"]), {"files": sorted(file_ids)})
    return {row.id: row.path for row in rows}


async def make_directory(
    connection: AsyncConnection,
    components: Sequence[str],
    *,
    owner: str,
    group: str,
    mode: int,
    mtime_ns: int,
    parents: bool = False,
    storage_class: str | None = None,
) -> Node:
    """A new directory. With `parents` missing ones are made too, and an existing directory is no error.

    Raises Exists, ParentMissing, NotADirectory, UnknownStorageClass.
    """
    if storage_class is not None:
        await _known_class(connection, storage_class)
    way = await _walk(connection, components)
    if not way[-1].is_directory:
        raise _in_the_way(components, len(way) - 1)
    missing = len(components) - (len(way) - 1)
    if missing == 0:
        if parents:
            return way[-1]
        raise Exists(path=join_path(components))
    if missing > 1 and not parents:
        raise ParentMissing(path=join_path(components[:-1]))
    await _hold(connection, way[-1], components[: len(way) - 1])
    node = way[-1]
    for depth in range(len(way) - 1, len(components)):
        last = depth == len(components) - 1
        node = await _make_one(connection, components[: depth + 1], node, may_exist=parents)
        await connection.execute(
            sa.dialects.postgresql.insert(tables.directory)
            .values(
                node=node.id,
                owner=owner,
                grp=group,
                mode=mode,
                mtime_ns=mtime_ns,
                storage_class=storage_class if last else None,
            )
            .on_conflict_do_nothing()
        )
    return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    file_id: int
    #: in the recycle bin; False: it was on no tape and is gone for good
    recycled: bool


async def remove(connection: AsyncConnection, components: Sequence[str], *, by: str) -> Removed | None:
    """Remove a file, or an empty directory (None); `by` is who does it.

    Raises NotFound, NotADirectory, NotEmpty, Refused (root).
    """
    if not components:
        raise Refused(why="/ is the root of the namespace")
    path = join_path(components)
    node = await _lock(connection, await existing(connection, components), path)
    if node.is_directory:
        child = sa.select(tables.node.c.id).where(tables.node.c.parent == node.id).limit(1)
        if await connection.scalar(child) is not None:
            raise NotEmpty(path=path)
        await connection.execute(tables.node.delete().where(tables.node.c.id == node.id))
        return None
    file_id: int | None = await connection.scalar(sa.select(tables.file.c.id).where(tables.file.c.node == node.id))
    if file_id is None:
        raise NotFound(what=path)
    removed = await remove_file(connection, file_id, by=by)
    await connection.execute(tables.node.delete().where(tables.node.c.id == node.id))
    await events.emit(connection, "file.removed", path, {"file_id": file_id})
    return removed


async def remove_file(connection: AsyncConnection, file_id: int, *, by: str) -> Removed | None:
    """Make a live file deleted and end everything under way for it; None when it was no longer live.

    With a copy on tape it is in the recycle bin from then on; without one nothing of it is left to restore, and it is
    purged at once. Its node is the caller's: `remove` deletes it, a replacing put gives it to the new file. Copies on
    tape stay. The caller wakes the planner and the cache.
    """
    if await connection.scalar(sa.text(SQL["delete_file"]), {"file": file_id, "by": by}) is None:
        return None
    await connection.execute(sa.text(SQL["evict_deleted"]), {"file": file_id})
    await connection.execute(sa.text(SQL["drop_pins"]), {"file": file_id})
    await stage_items.fail_items(connection, [(file_id, "not_found", "The file was removed.")])
    await queues.drop_recalls(connection, [file_id])
    await queues.drop_archives(connection, [file_id])
    # Last: without its archives nobody adds a copy any more, and what was added before is seen by this statement.
    gone = await connection.scalar(sa.text(SQL["purge_without_copies"]), {"file": file_id})
    return Removed(file_id=file_id, recycled=gone is None)


async def move(connection: AsyncConnection, source: Sequence[str], target: Sequence[str]) -> Node:
    """Rename a file or directory; one row changes. Moving to itself does nothing.

    Raises NotFound, NotADirectory, ParentMissing, Exists (the target), Refused (the root, or below itself).
    """
    if not source:
        raise Refused(why="/ is the root of the namespace")
    node = await existing(connection, source)
    if tuple(source) == tuple(target):
        return node
    if node.is_directory:
        await connection.execute(sa.text(SQL["lock_directory_moves"]))
    parent = await parent_of(connection, target)
    node = await _lock(connection, node, join_path(source))
    if node.is_directory and await connection.scalar(sa.text(SQL["is_below"]), {"id": parent.id, "ancestor": node.id}):
        raise Refused(why=f"{join_path(target)} lies below {join_path(source)}")
    try:
        async with connection.begin_nested():
            await connection.execute(
                sa.text(SQL["move_node"]), {"id": node.id, "parent": parent.id, "name": target[-1]}
            )
    except IntegrityError as exc:
        if violates(exc, "node_parent_name_key"):
            raise Exists(path=join_path(target)) from exc
        raise
    await events.emit(connection, "node.moved", join_path(source), {"to": join_path(target)})
    return Node(id=node.id, parent=parent.id, name=target[-1], kind=node.kind)


async def storage_class_for(connection: AsyncConnection, parent_node: int, wanted: str | None) -> str:
    """The wanted class, else the nearest directory's, else the default. Raises UnknownStorageClass."""
    if wanted is not None:
        await _known_class(connection, wanted)
        return wanted
    nearest = await connection.scalar(sa.text(SQL["nearest_class"]), {"id": parent_node})
    if nearest is None:
        default = sa.select(tables.storage_class.c.name).where(tables.storage_class.c.is_default)
        nearest = await connection.scalar(default)
    if nearest is None:
        raise UnknownStorageClass(name="(default)", known=", ".join(await _class_names(connection)))
    return str(nearest)


async def _walk(connection: AsyncConnection, components: Sequence[str]) -> list[Node]:
    """The nodes of the way, root first, as far as it exists."""
    rows = await connection.execute(sa.text(SQL["walk"]), {"names": list(components)})
    return [Node(id=row.id, parent=row.parent, name=row.name, kind=row.kind) for row in rows]


async def _hold(connection: AsyncConnection, node: Node, components: Sequence[str]) -> None:
    if await connection.scalar(sa.text(SQL["lock_directory"]), {"id": node.id}) is None:
        raise ParentMissing(path=join_path(components))


async def _lock(connection: AsyncConnection, node: Node, path: str) -> Node:
    """The node locked for a change. Raises NotFound when it went, or got another name, since it was looked up."""
    row = (await connection.execute(sa.text(SQL["lock_node"]), {"id": node.id})).one_or_none()
    if row is None or row.parent != node.parent or row.name != node.name:
        raise NotFound(what=path)
    return node


async def _make_one(connection: AsyncConnection, components: Sequence[str], parent: Node, *, may_exist: bool) -> Node:
    values = {"parent": parent.id, "name": components[-1], "kind": "directory"}
    found = await connection.scalar(sa.text(SQL["insert_node"]), values)
    if found is not None:
        return Node(id=found, parent=parent.id, name=components[-1], kind="directory")
    # Somebody else made the name just now.
    node = await existing(connection, components)
    if not node.is_directory:
        raise NotADirectory(path=join_path(components))
    if not may_exist:
        raise Exists(path=join_path(components))
    return node


def _in_the_way(components: Sequence[str], depth: int) -> Exception:
    path = join_path(components[:depth])
    return Exists(path=path) if depth == len(components) else NotADirectory(path=path)


async def _known_class(connection: AsyncConnection, name: str) -> None:
    names = await _class_names(connection)
    if name not in names:
        raise UnknownStorageClass(name=name, known=", ".join(names))


async def _class_names(connection: AsyncConnection) -> list[str]:
    rows = await connection.execute(sa.select(tables.storage_class.c.name).order_by(tables.storage_class.c.name))
    return list(rows.scalars())

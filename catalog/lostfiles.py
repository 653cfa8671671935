"""Files that a lost life stored on disk and that reached no tape: after a restore they come back by the journal's word.

The journal, outside of the database, tells of every put: its name, owner and class, and which replica has its bytes.
Here the rows of file and replica are made again, under the old ids. The bytes are not looked at: each replica is
unchecked, and counts once its cache server has compared and checksummed it. Reads no directory: see `capstan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import adoption
from catalog.archives import enqueue_archives
from catalog.journal import STORAGE_CLASS
from catalog.journalformat import Entry
from catalog.model import FileRecord
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("restoring").items()}
FILES_A_STEP = 1000
#: names on the way from a file to the root; more than a path has
_DEPTH_MAX = 4096


class _Node(msgspec.Struct, frozen=True):
    parent: int | None
    name: str
    kind: str


class _File(msgspec.Struct, frozen=True):
    node: int | None
    state: str
    owner: str
    grp: str
    mode: int
    mtime_ns: int
    storage_class: str


class _Replica(msgspec.Struct, frozen=True):
    file: int
    cache_server: str
    size: int
    adler32: str
    digests: dict[str, str]


_KINDS: dict[str, type[_Node] | type[_File] | type[_Replica]] = {"node": _Node, "file": _File, "replica": _Replica}


@dataclass(frozen=True, slots=True, kw_only=True)
class LostReplica:
    replica_id: int
    cache_server: str
    #: of a file whose path begins below `parent`: its components are relative to it
    record: FileRecord
    parent: int | None


@dataclass(slots=True)
class LostLife:
    """What the journal of a life that is over told behind the backup: of each object the last word."""

    _told: dict[tuple[str, int], tuple[int, msgspec.Struct | None]] = field(default_factory=dict)

    def hear(self, entries: Iterable[Entry]) -> None:
        """In any order; what has not the fields of its kind is passed over."""
        for one in entries:
            kind = _KINDS.get(one.kind)
            if kind is None:
                continue
            key = (one.kind, one.id)
            if key in self._told and self._told[key][0] > one.seq:
                continue
            try:
                self._told[key] = (one.seq, None if one.removed else msgspec.json.decode(one.entry, type=kind))
            except msgspec.ValidationError:
                continue

    def replicas(self) -> Iterator[LostReplica]:
        """Of files that were live at the end, the oldest first; Capstan's own files are none of them."""
        for (kind, replica_id), (_, told) in sorted(self._told.items()):
            if kind != "replica" or not isinstance(told, _Replica):
                continue
            file = self._of("file", told.file)
            if not isinstance(file, _File) or file.state != "live" or file.storage_class == STORAGE_CLASS:
                continue
            way = self._way(file.node)
            if way is None:
                continue
            parent, components = way
            record = FileRecord(
                file_id=told.file, path="/" + "/".join(components), size=told.size, adler32=told.adler32,
                mtime_ns=file.mtime_ns, mode=file.mode, owner=file.owner, group=file.grp,
                storage_class=file.storage_class, digests=told.digests,
            )  # fmt: skip
            yield LostReplica(replica_id=replica_id, cache_server=told.cache_server, record=record, parent=parent)

    def _of(self, kind: str, id: int) -> msgspec.Struct | None:
        return self._told.get((kind, id), (0, None))[1]

    def _way(self, node: int | None) -> tuple[int | None, list[str]] | None:
        """The directory that was made before the backup, or none, and the names from there; None: it has no name."""
        names: list[str] = []
        while node is not None and len(names) < _DEPTH_MAX:
            told = self._of("node", node)
            if not isinstance(told, _Node):
                return (node, names) if names and ("node", node) not in self._told else None
            if told.parent is None:
                break
            names.insert(0, told.name)
            node = told.parent
        return (None, names) if names else None


async def bring_back(connection: AsyncConnection, lost: LostLife) -> int:
    """Make files and replicas of what the journal told, archives queued; how many. The caller's transaction.

    Only ids of a lost life that the catalog lacks, whose cache server it knows. Live under their name if it is free,
    else in the recycle bin.
    """
    count = 0
    found = lost.replicas()
    while some := list(islice(found, FILES_A_STEP)):
        count += await _bring_back(connection, some)
    return count


async def _bring_back(connection: AsyncConnection, lost: Sequence[LostReplica]) -> int:
    parents = sorted({one.parent for one in lost if one.parent is not None})
    paths = {row.id: row.path for row in await connection.execute(_SQL["paths_of"], {"nodes": parents})}
    servers = set((await connection.scalars(_SQL["cache_servers"])).all())
    fitting = [
        (one, replace(one.record, path=paths.get(one.parent, "").rstrip("/") + one.record.path))
        for one in lost
        if one.cache_server in servers and (one.parent is None or one.parent in paths)
    ]
    made = set(await adoption.make_unknown(connection, [record for _, record in fitting]))
    rows = [one for one, record in fitting if record.file_id in made]
    arguments: dict[str, Any] = {
        "ids": [one.replica_id for one in rows],
        "files": [one.record.file_id for one in rows],
        "servers": [one.cache_server for one in rows],
        "sizes": [one.record.size for one in rows],
    }
    await connection.execute(_SQL["replicas_back"], arguments)
    await enqueue_archives(connection, made)
    return len(made)

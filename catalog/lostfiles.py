"""Files that a lost life stored on disk and that reached no tape: after a restore they come back by the journal's word.

The journal, outside of the database, tells of every put: its name, owner and class, and which replica has its bytes.
Here the rows of file and replica are made again, under the old ids. The bytes are not looked at: each replica is
unchecked, and counts once its cache server has compared and checksummed it. Reads no directory: see `capstan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    #: its path is not known before `way` was compared with the catalog
    record: FileRecord
    #: node and name of the file, of its directory and so on upwards; without a name, at the end, what was not told of
    way: tuple[tuple[int, str], ...]


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

    def highest_file(self) -> int:
        """Of all that was told, whatever became of it; 0 without any."""
        return max((id for kind, id in self._told if kind == "file"), default=0)

    def replicas(self) -> Iterator[LostReplica]:
        """Of files that were live at the end, the highest id first; Capstan's own files are none of them."""
        for replica_id, told in sorted(self._replicas(), key=lambda one: one[1].file, reverse=True):
            file = self._of("file", told.file)
            if not isinstance(file, _File) or file.state != "live" or file.storage_class == STORAGE_CLASS:
                continue
            way = self._way(file.node)
            if not way:
                continue
            record = FileRecord(
                file_id=told.file, path="", size=told.size, adler32=told.adler32, mtime_ns=file.mtime_ns,
                mode=file.mode, owner=file.owner, group=file.grp, storage_class=file.storage_class,
                digests=told.digests,
            )  # fmt: skip
            yield LostReplica(replica_id=replica_id, cache_server=told.cache_server, record=record, way=tuple(way))

    def _replicas(self) -> list[tuple[int, _Replica]]:
        return [
            (id, told)
            for (kind, id), (_, told) in self._told.items()
            if kind == "replica" and isinstance(told, _Replica)
        ]

    def _of(self, kind: str, id: int) -> msgspec.Struct | None:
        return self._told.get((kind, id), (0, None))[1]

    def _way(self, node: int | None) -> list[tuple[int, str]] | None:
        """From this node to the root, or to one that was made before the backup; None: it is cut off."""
        way: list[tuple[int, str]] = []
        while node is not None and len(way) < _DEPTH_MAX:
            told = self._of("node", node)
            if not isinstance(told, _Node):
                return None if ("node", node) in self._told else [*way, (node, "")]
            if told.parent is None:
                return way
            way.append((node, told.name))
            node = told.parent
        return None


async def bring_back(connection: AsyncConnection, lost: LostLife) -> int:
    """Make files and replicas of what the journal told, archives queued; how many. The caller's transaction.

    Only ids of a lost life that the catalog lacks. Live under their name if it is free, else in the recycle bin.
    """
    count = 0
    found = lost.replicas()
    while some := list(islice(found, FILES_A_STEP)):
        count += await _bring_back(connection, some)
    return count


async def _bring_back(connection: AsyncConnection, lost: Sequence[LostReplica]) -> int:
    nodes = sorted({node for one in lost for node, _ in one.way})
    known = {row.id: row.path for row in await connection.execute(_SQL["paths_of"], {"nodes": nodes})}
    fitting = [(one, replace(one.record, path=path)) for one in lost if (path := _path(one.way, known)) is not None]
    made = set(await adoption.make_unknown(connection, [record for _, record in fitting]))
    rows = [one for one, record in fitting if record.file_id in made]
    arguments: dict[str, Any] = {
        "ids": [one.replica_id for one in rows],
        "files": [one.record.file_id for one in rows],
        "servers": [one.cache_server for one in rows],
        "sizes": [one.record.size for one in rows],
    }
    await connection.execute(_SQL["cache_servers_back"], {"servers": sorted({one.cache_server for one in rows})})
    await connection.execute(_SQL["replicas_back"], arguments)
    await enqueue_archives(connection, made)
    return len(made)


def _path(way: Sequence[tuple[int, str]], known: Mapping[int, str]) -> str | None:
    """Below the first directory that the backup knows, where the backup has it; None: there is none.

    The file's own node counts only without a name: then the file took over the name of one that the backup has there.
    """
    names: list[str] = []
    for node, name in way:
        if node in known and (names or not name):
            return known[node].rstrip("/") + "".join(f"/{one}" for one in reversed(names))
        if not name:
            return None
        names.append(name)
    return "".join(f"/{one}" for one in reversed(names))

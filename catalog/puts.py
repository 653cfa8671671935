"""A put, from admission to commit: everything that can refuse it before its body, and the one transaction that ends it.

The bytes are the cache server's work; it calls `commit` after they are on the disk (fsync, rename, fsync of the
directory), and only then answers. The name appears with that commit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import events, journal, namespace, queues
from catalog.errors import (
    BadRequest,
    Exists,
    ExistsCondition,
    IsADirectory,
    LargerThanAnyVolume,
    NotFound,
    ParentMissing,
    SpaceGivenBack,
    SystemClass,
)
from catalog.model import Action, FileRecord, Principal, authorize, grants_cover, join_path
from catalog.reservations import abandon as abandon_reservations
from catalog.reservations import release_reservation, reserve
from catalog.signing import PutClaims
from catalog.sql import load
from catalog.units import MIB

_SQL = {name: sa.text(statement) for name, statement in load("puts").items()}
_INSERT_FILE, _FIRST_RESULT, _FIRST_RESULT_BY_NAME = (
    _SQL[name].columns(digests=JSONB) for name in ("insert_file", "first_result", "first_result_by_name")
)
_STORE_MANY = _SQL["store_many"].columns(digests=JSONB)
#: reserved at a time for a body of unknown length
UNSIZED_STEP_BYTES = 64 * MIB
#: a reservation outlives its URL by this; a transfer under way renews it
RESERVATION_SLACK_SECONDS = 120.0
#: this part of a cartridge is kept for labels, trailers and indexes
VOLUME_OVERHEAD = 1 / 64
#: it is a key of indexes, and stands in every index on tape
COLLOCATION_BYTES_MAX = 255
_NAME_ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A put whose bytes are on the disk for good, and whose commit is due."""

    claims: PutClaims
    size: int
    #: hex
    adler32: str
    #: what was computed beside it, in base64
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    parent: int
    #: whether the name is there
    present: bool
    storage_class: str
    volume_bytes_max: int | None
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Either the file is there already (a repeat of what was stored), or the claims to sign for `url`."""

    already: FileRecord | None = None
    claims: PutClaims | None = None
    cache_server: str = ""
    url: str = ""


async def admit(
    connection: AsyncConnection,
    principal: Principal,
    components: Sequence[str],
    *,
    size: int | None,
    digests: Mapping[str, str],
    if_none_match: bool,
    storage_class: str | None,
    mode: int,
    mtime_ns: int,
    lifetime_seconds: float = 600.0,
    replica_id: int | None = None,
    collocation: str = "",
) -> Admission:
    """Judge a PUT before its body. `digests`: "adler32" in hex, others in base64; `lifetime_seconds`: of the URL;
    `collocation`: a word that files share which will be read together, else it is their directory.

    Writes with its last statement alone, so an autocommit connection serves, and holds the server's row the shortest.
    `replica_id`: from `DrawnIds`; then that commit is not waited for, for nobody is promised anything by it: a put
    whose reservation was lost is refused (SpaceGivenBack) and sent again.
    Raises Denied, BadRequest, NotADirectory, ParentMissing, IsADirectory, ExistsCondition (412), Exists (409),
    UnknownStorageClass, SystemClass, LargerThanAnyVolume, NoSpace (then the caller calls `replicas.report_refusal`).
    """
    path = join_path(components)
    authorize(principal, Action.CREATE, path)
    _check_collocation(collocation)
    may_modify = grants_cover(principal.grants, Action.MODIFY, path)
    judged = await _judge(connection, principal, components, storage_class, lifetime_seconds)
    already = await _present(connection, components) if judged.present else None
    if already is not None and _is_repeat(
        already, path, size, digests, if_none_match=if_none_match, may_modify=may_modify
    ):
        return Admission(already=already)
    _check_volumes(judged.volume_bytes_max, size or 0)
    # Last: it holds the server's row, which every other put wants too, until the commit.
    reservation = await reserve(
        connection,
        bytes=UNSIZED_STEP_BYTES if size is None else size, kind="put", path=path,
        lifetime_seconds=lifetime_seconds + RESERVATION_SLACK_SECONDS,
        id=replica_id,
    )  # fmt: skip
    claims = PutClaims(
        replica_id=reservation.id,
        parent_node=judged.parent,
        name=components[-1],
        path=path,
        size=size,
        digests=dict(digests),
        if_none_match=if_none_match,
        replace=may_modify,
        storage_class=judged.storage_class,
        collocation=collocation,
        owner=principal.owner,
        group=principal.group,
        mode=mode,
        mtime_ns=mtime_ns,
        expires_at=judged.expires_at,
    )
    return Admission(claims=claims, cache_server=reservation.cache_server, url=reservation.url)


async def commit_many(connection: AsyncConnection, landed: Sequence[Landed]) -> dict[int, FileRecord]:
    """`commit` of those whose size was promised and whose names are free, in a few statements; replica id -> record.

    Those that are missing in the answer are as they were; `commit` stores or refuses them, one by one. The caller's
    transaction; it wakes as for `commit`.
    """
    simple = {one.claims.replica_id: one for one in landed if one.claims.size == one.size}
    if not simple:
        return {}
    ordered = list(simple.values())
    rows = await connection.execute(
        _STORE_MANY,
        {
            "ids": list(simple),
            "parents": [one.claims.parent_node for one in ordered],
            "names": [one.claims.name for one in ordered],
            "sizes": [one.size for one in ordered],
            "adler32s": [one.adler32 for one in ordered],
            "digests": [json.dumps(dict(one.digests)) for one in ordered],
            "mtimes_ns": [one.claims.mtime_ns for one in ordered],
            "modes": [one.claims.mode for one in ordered],
            "owners": [one.claims.owner for one in ordered],
            "groups": [one.claims.group for one in ordered],
            "classes": [one.claims.storage_class for one in ordered],
            "collocations": [one.claims.collocation for one in ordered],
        },
    )
    records = {row.replica: namespace.record_of(row, row.stored_path) for row in rows}
    if records:
        await queues.enqueue_archives(connection, [record.file_id for record in records.values()])
        await events.emit_many(
            connection,
            [
                ("file.stored", record.path, {"file_id": record.file_id, "size": record.size})
                for record in records.values()
            ],
        )
    return records


async def commit(
    connection: AsyncConnection, claims: PutClaims, *, size: int, adler32: str, digests: Mapping[str, str]
) -> FileRecord:
    """The file appears under its name, with its replica and its archives: one transaction, the caller's.

    The bytes must be on the disk for good. A repeat of claims that were committed answers with the first result.
    `digests`: what was computed beside adler32, in base64. The caller wakes PLANNER and EVENTS, and CACHE when
    `claims.replace`. Raises ParentMissing, IsADirectory, Exists, ExistsCondition, SpaceGivenBack; then nothing is
    stored and the caller removes the bytes.
    """
    done = await first_result(connection, claims)
    if done is not None:
        return done
    if await connection.scalar(_SQL["hold_parent"], {"parent": claims.parent_node}) is None:
        raise ParentMissing(path=claims.path.rpartition("/")[0] or "/")
    node = await _take_name(connection, claims)
    row = (
        await connection.execute(
            _INSERT_FILE,
            {
                "node": node,
                "parent": claims.parent_node,
                "name": claims.name,
                "size": size,
                "adler32": adler32,
                "digests": json.dumps(dict(digests)),
                "mtime_ns": claims.mtime_ns,
                "mode": claims.mode,
                "owner": claims.owner,
                "group": claims.group,
                "storage_class": claims.storage_class,
                "collocation": claims.collocation,
            },
        )
    ).one()
    values = {"id": claims.replica_id, "file": row.id, "size": size}
    taken = (await connection.execute(_SQL["take_reservation"], values)).one_or_none()
    if taken is None:
        raise SpaceGivenBack(path=claims.path)
    await queues.enqueue_archives(connection, [row.id])
    record = namespace.record_of(row, row.stored_path)
    await events.emit(connection, "file.stored", record.path, {"file_id": record.file_id, "size": size})
    if taken.bytes != size:
        unused = {"server": taken.cache_server, "bytes": taken.bytes - size}
        await connection.execute(_SQL["give_back"], unused)
    return record


async def first_result(connection: AsyncConnection, claims: PutClaims) -> FileRecord | None:
    """What an earlier PUT with these claims stored, or None when none did."""
    row = (await connection.execute(_FIRST_RESULT, {"id": claims.replica_id})).one_or_none()
    return None if row is None else namespace.record_of(row, row.stored_path)


async def is_spent(connection: AsyncConnection, claims: PutClaims) -> FileRecord | None:
    """Before the body: the first result of a repeat. None when the PUT may go on.

    Raises SpaceGivenBack when its space is gone and nothing says what it stored.
    """
    # A commit takes the reservation away, so as long as it is there, nothing was stored.
    if await connection.scalar(_SQL["reservation_of"], {"id": claims.replica_id}):
        return None
    done = await first_result(connection, claims)
    if done is not None:
        return done
    values = {
        "parent": claims.parent_node,
        "name": claims.name,
        "owner": claims.owner,
        "size": claims.size,
    }
    row = (await connection.execute(_FIRST_RESULT_BY_NAME, values)).one_or_none()
    if row is not None:
        record = namespace.record_of(row, row.stored_path)
        if _is_same(record, claims.size, claims.digests):
            return record
    raise SpaceGivenBack(path=claims.path)


async def abort(connection: AsyncConnection, replica_id: int) -> None:
    """The put failed and its bytes are removed: its space is given back. Safe to repeat, and after a commit."""
    await release_reservation(connection, [replica_id])


async def abandon(connection: AsyncConnection, replica_id: int) -> None:
    """Whatever became of the put, nobody waits for it: its cache server clears it away. Wake CACHE after the commit."""
    await abandon_reservations(connection, [replica_id])


async def _take_name(connection: AsyncConnection, claims: PutClaims) -> int:
    """The node for the new file: a new one, or that of the file which it replaces."""
    name = {"parent": claims.parent_node, "name": claims.name}
    for _ in range(_NAME_ATTEMPTS_MAX):
        made = await connection.scalar(_SQL["insert_name"], name)
        if made is not None:
            return int(made)
        present = (await connection.execute(_SQL["lock_name"], name)).one_or_none()
        if present is None:
            # Removed between the two statements: the name is free again.
            continue
        if present.kind == "directory":
            raise IsADirectory(path=claims.path)
        if claims.if_none_match:
            raise ExistsCondition(path=claims.path)
        if not claims.replace:
            raise Exists(path=claims.path)
        if present.file is not None:
            await namespace.remove_file(connection, present.file, by=claims.owner)
        return int(present.id)
    raise Exists(path=claims.path)


async def _judge(
    connection: AsyncConnection,
    principal: Principal,
    components: Sequence[str],
    storage_class: str | None,
    lifetime_seconds: float,
) -> _Judged:
    """All that `admit` asks the catalog, at once; what is not plain is asked of the namespace, which raises."""
    wanted = {
        "names": list(components),
        "depth": len(components),
        "storage_class": storage_class,
        "lifetime_seconds": lifetime_seconds,
    }
    row = (await connection.execute(_SQL["judge"], wanted)).one()
    parent = row.parent if components else None
    if parent is None:
        parent = (await namespace.parent_of(connection, components)).id
    found_class = row.storage_class or await namespace.storage_class_for(connection, parent, storage_class)
    _check_class(found_class, principal, components)
    return _Judged(
        parent=parent,
        present=row.present is not None,
        storage_class=found_class,
        volume_bytes_max=row.volume_bytes_max,
        expires_at=float(row.expires_at),
    )


async def _present(connection: AsyncConnection, components: Sequence[str]) -> FileRecord | None:
    try:
        return await namespace.file_at(connection, components)
    except NotFound:
        return None


def _check_class(storage_class: str, principal: Principal, components: Sequence[str]) -> None:
    """What a rebuild reads first must not be mixed with users' files; only Capstan itself names its own directory."""
    own = components[0] == journal.DIRECTORY[0]
    if storage_class == journal.STORAGE_CLASS and not own and not principal.is_admin:
        raise SystemClass(name=storage_class)


def _check_collocation(word: str) -> None:
    if len(word.encode("utf-8", "replace")) > COLLOCATION_BYTES_MAX or not word.isprintable():
        raise BadRequest(why=f"a collocation is a word of at most {COLLOCATION_BYTES_MAX} bytes that can be printed")


def _is_repeat(
    present: FileRecord,
    path: str,
    size: int | None,
    digests: Mapping[str, str],
    *,
    if_none_match: bool,
    may_modify: bool,
) -> bool:
    """Whether what is under the name is the file itself; False: it is replaced. Raises ExistsCondition, Exists."""
    if if_none_match:
        raise ExistsCondition(path=path)
    if _is_same(present, size, digests):
        return True
    if not may_modify:
        raise Exists(path=path)
    return False


def _is_same(record: FileRecord, size: int | None, digests: Mapping[str, str]) -> bool:
    """Whether a promised body is the stored one: equal size, at least one equal digest, none unequal."""
    if size != record.size:
        return False
    stored = {**record.digests, "adler32": record.adler32}
    common = [algorithm for algorithm in digests if algorithm in stored]
    return bool(common) and all(digests[algorithm] == stored[algorithm] for algorithm in common)


def _check_volumes(largest: int | None, size: int) -> None:
    if largest is not None and size > (limit := int(largest * (1 - VOLUME_OVERHEAD))):
        raise LargerThanAnyVolume(what="the file", actual=size, limit=limit)

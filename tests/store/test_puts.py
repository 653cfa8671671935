"""Promises of a put: who is refused before the body, and what one commit makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import namespace, puts, recycle, replicas, volumes
from catalog.database import Database
from catalog.errors import (
    Denied,
    Exists,
    ExistsCondition,
    IsADirectory,
    LargerThanAnyVolume,
    NoSpace,
    NotADirectory,
    ParentMissing,
    SpaceGivenBack,
    SystemClass,
    UnknownStorageClass,
)
from catalog.model import Action, FileRecord, Grant, Principal
from catalog.signing import PutClaims
from tapeserver import journaling
from tests.store.media import make_copies, two_libraries
from tests.waiting import somebody_waits

ANN = Principal(token_id=1, owner="ann", groups=("exp",), grants=(Grant(action=Action.CREATE, prefix="/exp"),))
BOB = Principal(token_id=2, owner="bob", groups=("exp",), grants=(Grant(action=Action.MODIFY, prefix="/exp"),))


async def prepare(connection: AsyncConnection) -> None:
    await two_libraries(connection)
    await namespace.make_directory(connection, ("exp",), owner="ann", group="exp", mode=0o755, mtime_ns=0, parents=True)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as opened:
        await prepare(opened)
        yield opened


async def admit(
    connection: AsyncConnection, path: str = "/exp/f", who: Principal = ANN, **changed: Any
) -> puts.Admission:
    wanted: dict[str, Any] = {
        "size": 100,
        "digests": {"adler32": "0000000a"},
        "if_none_match": False,
        "storage_class": None,
        "mode": 0o640,
        "mtime_ns": 12345,
        **changed,
    }
    return await puts.admit(connection, who, tuple(path.strip("/").split("/")), **wanted)


async def claims_for(connection: AsyncConnection, *arguments: Any, **changed: Any) -> PutClaims:
    admission = await admit(connection, *arguments, **changed)
    assert admission.claims is not None
    return admission.claims


async def store(connection: AsyncConnection, claims: PutClaims, *, adler32: str = "0000000a") -> FileRecord:
    return await puts.commit(connection, claims, size=claims.size or 0, adler32=adler32, digests={"md5": "x"})


async def space(connection: AsyncConnection) -> tuple[int, int]:
    [server] = await replicas.servers(connection)
    return server.used_bytes, server.reserved_bytes


async def test_a_put_makes_name_file_replica_and_archives_in_one_step(connection: AsyncConnection) -> None:
    admission = await admit(connection)
    assert admission.url == "http://127.0.0.1:1"
    assert await space(connection) == (0, 100)
    assert admission.claims is not None
    record = await store(connection, admission.claims)
    assert record == await namespace.file_at(connection, ("exp", "f"))
    assert (record.path, record.owner, record.group, record.mode) == ("/exp/f", "ann", "exp", 0o640)
    assert (record.storage_class, record.digests, record.mtime_ns) == ("one", {"md5": "x"}, 12345)
    place = await replicas.replica_for_read(connection, record.file_id)
    assert place is not None
    assert place.replica_id == admission.claims.replica_id
    assert await space(connection) == (100, 0)
    assert await connection.scalar(sa.text("select count(*) from archive where file = :f"), {"f": record.file_id}) == 1
    assert (await replicas.evict(connection, server="cache")).kept == [(record.file_id, "not yet safe")]


async def test_an_empty_file_can_be_put(connection: AsyncConnection) -> None:
    record = await store(connection, await claims_for(connection, size=0), adler32="00000001")
    assert record.size == 0


async def test_the_same_claims_twice_give_the_first_result(connection: AsyncConnection) -> None:
    claims = await claims_for(connection)
    assert await puts.is_spent(connection, claims) is None
    record = await store(connection, claims)
    assert await puts.is_spent(connection, claims) == record
    assert await store(connection, claims) == record
    assert await space(connection) == (100, 0)


async def test_the_first_result_is_known_even_when_its_replica_is_gone(connection: AsyncConnection) -> None:
    claims = await claims_for(connection)
    record = await store(connection, claims)
    await make_copies(connection, [record.file_id], "E00001")
    await replicas.evict(connection, server="cache")
    await replicas.forget_evicted(connection, [claims.replica_id])
    assert await puts.is_spent(connection, claims) == record


async def test_aborted_claims_store_nothing(connection: AsyncConnection) -> None:
    claims = await claims_for(connection)
    await puts.abort(connection, claims.replica_id)
    await puts.abort(connection, claims.replica_id)
    assert await space(connection) == (0, 0)
    with pytest.raises(SpaceGivenBack):
        await puts.is_spent(connection, claims)
    with pytest.raises(SpaceGivenBack):
        await store(connection, claims)


async def test_of_two_puts_of_one_name_one_wins_and_the_other_is_told(database: Database) -> None:
    async with database.transaction() as connection:
        await prepare(connection)
        first, second = await claims_for(connection), await claims_for(connection)

    async def late() -> FileRecord:
        async with database.transaction() as connection:
            return await store(connection, second)

    async with database.transaction() as connection:
        stored = await store(connection, first)
        other = asyncio.create_task(late())
        await somebody_waits(database)
    with pytest.raises(Exists) as refused:
        await other
    assert refused.value.http_status == 409
    async with database.connection() as connection:
        assert (await namespace.file_at(connection, ("exp", "f"))).file_id == stored.file_id


async def test_who_may_modify_replaces_and_the_old_file_ends_in_the_same_step(connection: AsyncConnection) -> None:
    old = await store(connection, await claims_for(connection))
    new = await store(connection, await claims_for(connection, "/exp/f", BOB, digests={}), adler32="0000000b")
    assert new.file_id != old.file_id
    assert (await namespace.file_at(connection, ("exp", "f"))).file_id == new.file_id
    assert len(await replicas.evicting(connection, "cache", limit=9)) == 1
    states = await connection.execute(sa.text("select state from file order by id"))
    # The old one was on no tape: there is nothing to keep of it.
    assert list(states.scalars()) == ["purged", "live"]
    assert await connection.scalar(sa.text("select count(*) from archive")) == 1


async def test_a_replaced_file_that_is_on_tape_goes_to_the_recycle_bin(connection: AsyncConnection) -> None:
    old = await store(connection, await claims_for(connection))
    await make_copies(connection, [old.file_id], "E00001")
    await store(connection, await claims_for(connection, "/exp/f", BOB, digests={}), adler32="0000000b")
    [found] = await recycle.listed(connection)
    assert (found.file_id, found.path, found.deleted_by) == (old.file_id, "/exp/f", BOB.owner)


async def test_the_same_bytes_again_are_stored_already(connection: AsyncConnection) -> None:
    record = await store(connection, await claims_for(connection))
    assert (await admit(connection)).already == record
    assert await space(connection) == (100, 0)
    with pytest.raises(ExistsCondition) as caught:
        await admit(connection, if_none_match=True)
    assert (caught.value.http_status, caught.value.code) == (412, "exists")
    for changed in ({"size": 99}, {"digests": {"adler32": "0000000b"}}, {"digests": {}}):
        with pytest.raises(Exists) as refused:
            await admit(connection, **changed)
        assert refused.value.http_status == 409


async def test_if_none_match_is_judged_again_at_the_commit(connection: AsyncConnection) -> None:
    late = await claims_for(connection, "/exp/f", BOB, if_none_match=True)
    await store(connection, await claims_for(connection))
    with pytest.raises(ExistsCondition):
        await store(connection, late)


@pytest.mark.parametrize(
    ("path", "changed", "refusal"),
    [
        ("/other/f", {}, Denied),
        ("/exp/no/f", {}, ParentMissing),
        ("/exp/f/x", {}, NotADirectory),
        ("/exp/d", {}, IsADirectory),
        ("/exp/g", {"storage_class": "none"}, UnknownStorageClass),
        ("/exp/g", {"size": 10**10}, LargerThanAnyVolume),
        ("/exp/g", {"size": 2 * 10**9}, NoSpace),
    ],
)
async def test_a_put_is_refused_before_its_body(
    connection: AsyncConnection, path: str, changed: dict[str, Any], refusal: type[Exception]
) -> None:
    await store(connection, await claims_for(connection))
    await namespace.make_directory(connection, ("exp", "d"), owner="ann", group="exp", mode=0o755, mtime_ns=0)
    with pytest.raises(refusal):
        await admit(connection, path, **changed)
    assert (await space(connection))[1] == 0


async def test_a_directory_removed_meanwhile_refuses_the_commit(connection: AsyncConnection) -> None:
    claims = await claims_for(connection)
    await namespace.remove(connection, ("exp",), by="ann")
    with pytest.raises(ParentMissing):
        await store(connection, claims)


async def test_a_body_of_unknown_length_begins_with_a_step(connection: AsyncConnection) -> None:
    await claims_for(connection, size=None)
    assert await space(connection) == (0, puts.UNSIZED_STEP_BYTES)


def landed(claims: PutClaims, **changed: Any) -> puts.Landed:
    wanted: dict[str, Any] = {
        "claims": claims,
        "size": claims.size or 0,
        "adler32": "0000000a",
        "digests": {},
        **changed,
    }
    return puts.Landed(**wanted)


async def test_puts_that_are_due_together_are_stored_together_and_what_is_not_plain_is_left_as_it_was(
    connection: AsyncConnection,
) -> None:
    plain, again = await claims_for(connection, "/exp/a"), await claims_for(connection, "/exp/a")
    other, unsized = await claims_for(connection, "/exp/b", size=0), await claims_for(connection, "/exp/c", size=None)
    given_back = await claims_for(connection, "/exp/d")
    await puts.abort(connection, given_back.replica_id)
    together = [landed(claims) for claims in (plain, again, other, given_back)] + [landed(unsized, size=5)]
    stored = await puts.commit_many(connection, together)
    assert {id: record.path for id, record in stored.items()} == {
        plain.replica_id: "/exp/a",
        other.replica_id: "/exp/b",
    }
    assert await namespace.file_at(connection, ("exp", "a")) == stored[plain.replica_id]
    assert await connection.scalar(sa.text("select count(*) from archive")) == 2
    assert await space(connection) == (100, 100 + puts.UNSIZED_STEP_BYTES)
    with pytest.raises(Exists):
        await store(connection, again)
    assert await puts.commit_many(connection, together[:1]) == {}
    assert await store(connection, plain) == stored[plain.replica_id]


async def test_many_puts_at_once_reserve_without_a_deadlock_and_an_id_never_comes_twice(database: Database) -> None:
    async with database.transaction() as connection:
        await prepare(connection)
    ids = replicas.DrawnIds(database)

    async def one(number: int) -> int:
        async with database.connection() as connection:
            claims = await claims_for(connection, f"/exp/{number}", size=1, replica_id=await ids.next())
            return claims.replica_id

    given = await asyncio.gather(*(one(number) for number in range(40)))
    assert len(set(given)) == 40
    async with database.connection() as connection:
        assert await space(connection) == (0, 40)
        # The commit of that statement alone did not wait for the disk.
        assert await connection.scalar(sa.text("show synchronous_commit")) == "on"


async def test_the_class_of_capstans_own_files_is_not_for_users(connection: AsyncConnection) -> None:
    await volumes.create_storage_class(connection, name="system", copies=1, pools=["east"])
    with pytest.raises(SystemClass, match="system"):
        await admit(connection, storage_class="system")
    # Also by way of a directory that names it.
    own = {"owner": "ann", "group": "exp", "mode": 0o755, "mtime_ns": 0}
    await namespace.make_directory(connection, ("exp", "own"), storage_class="system", **own)  # type: ignore[arg-type]  # as its signature says
    with pytest.raises(SystemClass):
        await admit(connection, "/exp/own/f")
    assert (await admit(connection, "/exp/own/f", storage_class="one")).claims is not None
    operator = Principal(token_id=3, owner="op", groups=(), grants=(Grant(action=Action.ADMIN, prefix="/"),))
    assert (await admit(connection, "/exp/own/f", operator)).claims is not None
    await namespace.make_directory(connection, (".capstan",), **own)  # type: ignore[arg-type]  # as above
    assert (await admit(connection, "/.capstan/f", journaling.SYSTEM, storage_class="system")).claims is not None

"""Promises that hold across the nouns: what is pinned, unsafe or half done stays somebody's business (design 7a)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import mounts, namespace, puts, queues, replicas, volumes
from catalog.database import Database
from catalog.errors import SpaceGivenBack
from catalog.model import Action, Grant, Principal
from catalog.queues import Written
from catalog.replicas import Recalled
from tests.store.media import make_copies, make_files, mounted, two_libraries


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as opened:
        await two_libraries(opened)
        yield opened


async def arrive(connection: AsyncConnection, files: list[int]) -> None:
    """The files come to disk as a mover would bring them."""
    reserved = await replicas.reserve_recalls(connection, [(file, 100) for file in files], 1, 60)
    arrivals = [Recalled(reservation_id=one.id, file_id=file) for one, file in zip(reserved, files, strict=True)]
    assert await replicas.commit_recalled(connection, arrivals) == files


async def archives_of(connection: AsyncConnection, files: list[int]) -> list[int]:
    statement = sa.text("select file from archive where file = any(:files) order by file")
    return list((await connection.scalars(statement, {"files": files})).all())


async def test_a_pin_taken_before_the_file_is_on_disk_holds_from_its_arrival_on(connection: AsyncConnection) -> None:
    files = await make_files(connection, 2, on_disk=False)
    await make_copies(connection, files, "E00001")
    # A job pins all its inputs and then has them staged; the request's own pins end before the job does.
    assert await replicas.pin(connection, owner="job:1", files=[*files, 999_999], lifetime_seconds=60) == []
    await arrive(connection, files)
    eviction = await replicas.evict(connection, file_ids=files)
    assert eviction.evicted == []
    assert {why for _, why in eviction.kept} == {"pinned"}
    assert await replicas.unpin(connection, owner="job:1") == 2
    assert len((await replicas.evict(connection, file_ids=files)).evicted) == 2


async def test_a_removed_file_cannot_be_pinned(connection: AsyncConnection) -> None:
    [file] = await make_files(connection, 1, on_disk=False)
    await connection.execute(sa.text("update file set state = 'deleted', deleted_at = capstan_now()"))
    assert await replicas.pin(connection, owner="job:1", files=[file], lifetime_seconds=60) == []
    assert await replicas.unpin(connection, owner="job:1") == 0


async def test_what_was_written_on_a_volume_that_is_suspect_by_then_is_queued_again(
    connection: AsyncConnection,
) -> None:
    files = await make_files(connection, 3)
    await queues.enqueue_archives(connection, files)
    epoch = await mounted(connection, "E00001", "east1", "archive")
    claimed = await queues.claim_archives(connection, "east", epoch, 10, 10**9)
    # The mount has them, so that nothing is missing when the volume leaves the good states …
    await volumes.set_state(connection, "volume", "E00001", "suspect", who="ann", reason="smoke")
    written = [
        Written(archive_id=one.archive_id, tape_file=n, first_block=2 + 10 * n, byte_offset=512, length=100)
        for n, one in enumerate(claimed, 1)
    ]
    # … and its last batch is recorded after that.
    for _ in range(2):
        safe = await queues.commit_written(connection, epoch, written, tape_files=3, end_block=42, written_bytes=300)
        assert safe == []
    assert await archives_of(connection, files) == files
    assert (await replicas.evict(connection, file_ids=files)).evicted == []
    assert await queues.drift(connection) == []


async def test_a_recalled_file_that_lacks_a_copy_is_archived_again_and_one_that_lacks_none_is_not(
    connection: AsyncConnection,
) -> None:
    files = await make_files(connection, 2, storage_class="two", on_disk=False)
    await make_copies(connection, files, "E00001")
    await make_copies(connection, files[:1], "W00001", number=2)
    await make_copies(connection, files[1:], "W00002", number=2)
    await volumes.set_state(connection, "volume", "W00002", "broken", who="ann", reason="torn")
    assert await archives_of(connection, files) == []
    await arrive(connection, files)
    assert await archives_of(connection, files) == files[1:]
    assert await queues.drift(connection) == []


async def test_a_suspect_volume_is_read_but_not_written(connection: AsyncConnection) -> None:
    await volumes.set_state(connection, "volume", "E00001", "suspect", who="ann", reason="tape_short")
    await volumes.set_state(connection, "volume", "E00002", "suspect", who="ann", reason="tape_short")
    reading = await mounted(connection, "E00001", "east1", "recall")
    writing = await mounted(connection, "E00002", "east2", "archive")
    reasons = await mounts.reasons_to_stop(connection, [reading, writing])
    assert reasons[reading] is None
    assert "tape_short" in (reasons[writing] or "")


async def test_a_label_that_is_on_the_tape_is_recorded_though_the_volume_was_disabled_meanwhile(
    connection: AsyncConnection,
) -> None:
    blank = volumes.NewVolume(vid="E00009", library="east", pool="east", capacity_bytes=10**9)
    await volumes.create_volumes(connection, [blank])
    await volumes.set_state(connection, "volume", "E00009", "disabled", who="ann", reason="sticky")
    assert await volumes.labelled(connection, "E00009", generation=1, end_block=2)
    volume = await volumes.volume_at(connection, "E00009")
    assert (volume.state, volume.reason, volume.generation) == ("disabled", "sticky", 1)
    await volumes.set_state(connection, "volume", "E00009", "enabled", who="ann", reason="fine")
    assert (await volumes.volume_at(connection, "E00009")).state == "active"


async def test_archives_whose_bytes_nobody_can_give_are_no_reason_for_a_mount(connection: AsyncConnection) -> None:
    lost, kept = await make_files(connection, 2)
    await queues.enqueue_archives(connection, [lost, kept])
    await connection.execute(sa.text("update archive set created_at = created_at - interval '1 hour'"))

    async def oldest() -> float | None:
        [pool] = await queues.backlog(connection)
        assert pool.files == 2
        return pool.oldest_seconds

    assert (await oldest() or 0) > 3000
    await replicas.quarantine(connection, 1_000_000 + lost, "damaged")
    assert (await oldest() or 0) > 3000
    await connection.execute(sa.text("update cache_server set heartbeat_at = heartbeat_at - interval '1 hour'"))
    assert await oldest() is None
    await connection.execute(sa.text("update cache_server set heartbeat_at = capstan_now()"))
    await replicas.quarantine(connection, 1_000_000 + kept, "damaged")
    assert await oldest() is None


async def test_an_abandoned_put_cannot_be_committed_any_more(connection: AsyncConnection) -> None:
    exp = await namespace.make_directory(
        connection, ["exp"], owner="ann", group="g", mode=0o755, mtime_ns=0, parents=True
    )
    ann = Principal(token_id=1, owner="ann", groups=("g",), grants=(Grant(action=Action.CREATE, prefix="/exp"),))
    for name in ("alone", "together"):
        admission = await puts.admit(
            connection, ann, ["exp", name], size=10, digests={}, if_none_match=False, storage_class=None, mode=0o644,
            mtime_ns=0,
        )  # fmt: skip
        claims = admission.claims
        assert claims is not None
        assert claims.parent_node == exp.id
        await puts.abandon(connection, claims.replica_id)
        with pytest.raises(SpaceGivenBack):
            await puts.is_spent(connection, claims)
        # Its cache server removes the bytes next: nothing may be made of them in between.
        await replicas.extend_reservation(connection, [claims.replica_id], lifetime_seconds=600)
        assert claims.replica_id in await replicas.expired_reservations(connection, "cache", limit=10)
        if name == "together":
            landed = puts.Landed(claims=claims, size=10, adler32="00000001", digests={})
            assert await puts.commit_many(connection, [landed]) == {}
        else:
            with pytest.raises(SpaceGivenBack):
                async with connection.begin_nested():
                    await puts.commit(connection, claims, size=10, adler32="00000001", digests={})
        assert await replicas.abandon(connection, [claims.replica_id, 999_999]) == {claims.replica_id}


async def test_copies_on_a_volume_with_a_wrong_label_do_not_count_until_a_person_says_so(
    connection: AsyncConnection,
) -> None:
    for state, vid in (("active", "E00001"), ("full", "E00002"), ("disabled", "E00003")):
        files = await make_files(connection, 2)
        await make_copies(connection, files, vid)
        if state != "active":
            await volumes.set_state(connection, "volume", vid, state, who="ann", reason="test")
        assert await archives_of(connection, files) == []
        assert await volumes.distrust(connection, vid, who="capstan", reason="wrong_label: it is of generation 2")
        # In the same transaction: not safe, so not evicted, and queued again from disk.
        assert await archives_of(connection, files) == files
        assert (await replicas.evict(connection, file_ids=files)).evicted == []
        volume = await volumes.volume_at(connection, vid)
        assert (volume.state, "generation 2" in volume.reason) == ("suspect", True)
        assert not await volumes.distrust(connection, vid, who="capstan", reason="wrong_label: again")
        await volumes.set_state(connection, "volume", vid, "enabled", who="ann", reason="the slot is right again")
        assert (await replicas.evict(connection, file_ids=files)).evicted != []
    assert await queues.drift(connection) == []


async def test_a_wrong_label_brings_no_copy_back_and_a_volume_without_any_is_only_not_mounted(
    connection: AsyncConnection,
) -> None:
    blank = volumes.NewVolume(vid="E00009", library="east", pool="east", capacity_bytes=10**9)
    await volumes.create_volumes(connection, [blank])
    await volumes.set_state(connection, "volume", "E00001", "broken", who="ann", reason="torn")
    assert not await volumes.distrust(connection, "E00001", who="capstan", reason="wrong_label")
    assert (await volumes.volume_at(connection, "E00001")).state == "broken"
    assert await volumes.distrust(connection, "E00009", who="capstan", reason="wrong_label")
    assert (await volumes.volume_at(connection, "E00009")).state == "disabled"

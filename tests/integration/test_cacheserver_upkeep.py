"""Promises of a cache server about its disk: whose it is, what a stop leaves, what goes and what stays."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
import sqlalchemy as sa

from cacheserver import evictable
from cacheserver.evictable import AGE_SECONDS_MAX, Evictable
from cacheserver.service import Service
from catalog import endings, puts, replicas
from catalog.cacheservers import WrongRoot
from catalog.database import Database
from catalog.errors import BadConfig, CatalogUnreachable, NoSpace
from catalog.replicas import Recalled
from tests.integration.cache_site import Site, make_site, running
from tests.store.media import make_copies, make_files
from tests.waiting import eventually

BODY = os.urandom(100_000)


async def recalled(site: Site, body: bytes = BODY) -> tuple[int, int]:
    """A safe file that a mover brought: (file id, replica id). Its replica is written behind the server's back."""
    async with site.database.transaction() as connection:
        file = await connection.scalar(
            sa.text(
                "insert into file (size, adler32, mtime_ns, owner, grp, storage_class, stored_path)"
                " values (:size, :adler32, 0, 'ann', 'exp', 'one', '/exp/r') returning id"
            ),
            {"size": len(body), "adler32": f"{zlib.adler32(body):08x}"},
        )
        await make_copies(connection, [file], "E00001")
        [reserved] = await replicas.reserve_recalls(connection, [(file, len(body))], 1, 60)
        path = site.path_of(reserved.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        await replicas.commit_recalled(connection, [Recalled(reservation_id=reserved.id, file_id=file)])
    return file, reserved.id


async def states(site: Site) -> dict[int, str]:
    async with site.database.connection() as connection:
        return {row.id: row.state for row in await replicas.catalogued(connection, "cache", after=0, limit=100)}


async def metric(site: Site, name: str) -> float:
    assert site.http is not None
    async with site.http.get(f"{site.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"capstan_cache_{name}"))


async def test_a_server_says_that_it_is_well(database: Database, tmp_path: Path) -> None:
    async with running(await make_site(database, tmp_path / "cache")) as site, aiohttp.ClientSession() as http:
        async with http.get(f"{site.url}/healthz") as answer:
            assert (await answer.json())["ok"] is True
        async with database.connection() as connection:
            [server] = await replicas.live_servers(connection)
        assert (server.url, server.root) == (site.url, str(tmp_path / "cache"))


async def test_a_root_that_is_not_empty_and_not_ours_is_refused(database: Database, tmp_path: Path) -> None:
    (tmp_path / "somebodys-data").write_text("x")
    with pytest.raises(BadConfig, match="not empty"):
        async with running(await make_site(database, tmp_path)):
            pass


async def test_a_disk_that_is_not_mounted_or_another_one_is_refused(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        pass
    identity = (site.root / "identity").read_text()
    (site.root / "identity").write_text("somebody-else\n")
    with pytest.raises(BadConfig, match="wrong disk"):
        async with running(site):
            pass
    (site.root / "identity").unlink()
    with pytest.raises(BadConfig, match="not mounted"):
        async with running(site):
            pass
    (site.root / "identity").write_text(identity)
    async with running(site):
        pass
    assert issubclass(WrongRoot, Exception)


async def test_a_server_of_which_a_restored_catalog_has_only_heard_comes_with_its_own_disk(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        claims, _ = await site.store("/exp/f", BODY)
    async with database.transaction() as connection:
        heard = "update cache_server set root_id = '', url = '', root = '', capacity_bytes = 0"
        await connection.execute(sa.text(heard))
    identity = (site.root / "identity").read_text()
    (site.root / "identity").unlink()
    with pytest.raises(BadConfig, match="not mounted"):
        async with running(site):
            pass
    (site.root / "identity").write_text(identity)
    async with running(site):
        assert (await site.get(site.get_url(claims.replica_id, BODY)))[1] == BODY
    async with database.connection() as connection:
        assert await connection.scalar(sa.text("select root_id from cache_server")) == identity.strip()


async def test_everything_is_there_after_a_stop_of_either_kind(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=False):
        claims, _ = await site.store("/exp/f", BODY)
    async with running(site):
        assert (await site.get(site.get_url(claims.replica_id, BODY)))[1] == BODY
        assert await metric(site, "drift_bytes_total") == 0
    async with running(site):
        assert (await site.get(site.get_url(claims.replica_id, BODY)))[1] == BODY


async def test_what_was_being_received_goes_with_its_reservation(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=False):
        claims = await site.admit(size=100)
        (site.root / "incoming" / f"{claims.replica_id}.0").write_bytes(b"half")
        assert await site.space() == (0, 100)
    async with running(site):
        assert site.files_below("incoming") == []
        assert await site.space() == (0, 0)


async def test_a_replica_that_lies_elsewhere_than_its_id_says_goes_to_its_place(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        claims, _ = await site.store("/exp/f", b"hello")
    elsewhere = site.root / "replicas" / "old" / str(claims.replica_id)
    elsewhere.parent.mkdir()
    site.path_of(claims.replica_id).rename(elsewhere)
    async with running(site):
        assert site.path_of(claims.replica_id).read_bytes() == b"hello"
        assert await states(site) == {claims.replica_id: "on_disk"}
        assert site.files_below("quarantine") == []


async def test_an_unknown_file_is_put_aside_never_adopted(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        pass
    path = site.path_of(4711)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"whose?")
    (path.parent / "notes.txt").write_text("no id")
    async with running(site):
        assert site.files_below("replicas") == []
        assert sorted(found.name.partition(".")[0] for found in site.files_below("quarantine")) == ["4711", "notes"]
        assert await metric(site, "quarantined_files_total") == 1


async def test_an_arrival_that_waits_for_its_commit_is_left_alone(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        file, _ = await recalled(site)
        async with database.transaction() as connection:
            await replicas.evict(connection, file_ids=[file])
            [reserved] = await replicas.reserve_recalls(connection, [(file, len(BODY))], 2, 60)
        path = site.path_of(reserved.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BODY)
    async with running(site):
        assert path.exists()
        async with database.transaction() as connection:
            arrival = Recalled(reservation_id=reserved.id, file_id=file)
            assert await replicas.commit_recalled(connection, [arrival]) == [file]
        assert (await site.get(site.get_url(reserved.id, BODY)))[1] == BODY


async def test_rows_without_files_safe_ones_go_and_unsafe_ones_are_lost(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        unsafe, _ = await site.store("/exp/f", BODY)
        _, safe = await recalled(site)
        site.path_of(unsafe.replica_id).rename(tmp_path / "away")
        site.path_of(safe).unlink()
    async with running(site):
        assert await states(site) == {unsafe.replica_id: "lost"}
        assert await metric(site, "lost_files_total") == 1
        assert await site.space() == (0, 0)
    (tmp_path / "away").rename(site.path_of(unsafe.replica_id))
    async with running(site):
        assert await states(site) == {unsafe.replica_id: "on_disk"}
        assert (await site.get(site.get_url(unsafe.replica_id, BODY)))[1] == BODY


async def test_after_an_unclean_stop_a_recalled_replica_is_checked_before_it_is_served(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=False):
        _, good = await recalled(site)
        _, torn = await recalled(site)
    site.path_of(torn).write_bytes(bytes(len(BODY)))
    async with running(site):
        status, body, _ = await site.get(site.get_url(torn, BODY))
        assert status == 503
        assert bytes(100) not in body
        assert (await site.get(site.get_url(good, BODY)))[1] == BODY
        assert await states(site) == {good: "on_disk", torn: "quarantined"}
        assert len(site.files_below("quarantine")) == 1


async def test_after_an_orderly_stop_nothing_is_checked(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        await recalled(site)
    async with running(site):
        assert await metric(site, "verified_files_total") == 0


async def test_above_the_high_watermark_safe_replicas_go_and_unsafe_ones_stay(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, capacity_bytes=10 * len(BODY), high_watermark=0.45, low_watermark=0.25):
        unsafe = [(await site.store(f"/exp/{name}", BODY))[0].replica_id for name in "ab"]
        safe = [(await recalled(site))[1] for _ in range(3)]

        async def down_to_the_low_mark() -> bool:
            return await site.space() == (2 * len(BODY), 0)

        await eventually(down_to_the_low_mark)
        assert sorted(await states(site)) == sorted(unsafe)
        assert not any(site.path_of(id).exists() for id in safe)


async def test_a_refused_put_fits_once_room_was_made_for_it(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, capacity_bytes=4 * len(BODY), high_watermark=0.99, low_watermark=0.9):
        for _ in range(3):
            await recalled(site)
        with pytest.raises(NoSpace) as caught:
            await site.admit(size=4 * len(BODY))
        await replicas.report_refusal(database, caught.value)

        async def fits() -> bool:
            try:
                await site.admit(size=4 * len(BODY))
            except NoSpace:
                return False
            return True

        await eventually(fits)


async def test_an_expired_reservation_is_given_back(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        async with database.transaction() as connection:
            await replicas.reserve(connection, bytes=10, kind="put", lifetime_seconds=0)
        assert await site.space() == (0, 10)

        async def given_back() -> bool:
            return await site.space() == (0, 0)

        await eventually(given_back)


async def arrived(site: Site, *, size: int = 100) -> int:
    """A recalled file whose bytes are on the disk under their name, and whose mount has not recorded it yet."""
    async with site.database.transaction() as connection:
        [file] = await make_files(connection, 1, size=size, on_disk=False)
        [reserved] = await replicas.reserve_recalls(connection, [(file, size)], 1, 3600)
    site.path_of(reserved.id).parent.mkdir(parents=True, exist_ok=True)
    site.path_of(reserved.id).write_bytes(bytes(size))
    return reserved.id


@pytest.mark.parametrize("killed", [False, True])
async def test_the_bytes_of_an_arrival_go_when_its_mount_ends_before_it_was_recorded(
    database: Database, tmp_path: Path, killed: bool
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=not killed):
        id = await arrived(site)
        if not killed:
            async with database.transaction() as connection:
                await endings.requeue_epoch(connection, 1, "the mover died")
            await eventually(lambda: nothing_left(site, id))
    if killed:
        async with database.transaction() as connection:
            await endings.requeue_epoch(connection, 1, "the mover died")
        async with running(site):
            await eventually(lambda: nothing_left(site, id))
    assert site.files_below("quarantine") == []


async def test_a_put_that_its_door_gave_up_after_it_was_published_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=False):
        async with database.transaction() as connection:
            reserved = await replicas.reserve(connection, bytes=10, kind="put", lifetime_seconds=3600)
        site.path_of(reserved.id).parent.mkdir(parents=True, exist_ok=True)
        site.path_of(reserved.id).write_bytes(bytes(10))
    async with database.transaction() as connection:
        await puts.abandon(connection, reserved.id)
    async with running(site):
        await eventually(lambda: nothing_left(site, reserved.id))
    assert site.files_below("quarantine") == []


async def nothing_left(site: Site, id: int) -> bool:
    return not site.path_of(id).exists() and await site.space() == (0, 0)


async def test_a_sweep_that_is_asked_for_is_done_when_it_answers(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, sweep_seconds=60):
        file, replica = await recalled(site)
        async with database.transaction() as connection:
            await replicas.evict(connection, file_ids=[file])
        await site.sweep()
        assert not site.path_of(replica).exists()
        assert await states(site) == {}


async def test_what_was_committed_while_it_was_looked_at_as_expired_keeps_its_bytes(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        claims, _ = await site.store("/exp/f", BODY)

        async def a_moment_ago(*_: object, **__: object) -> list[int]:
            return [claims.replica_id]

        monkeypatch.setattr(replicas, "expired_reservations", a_moment_ago)
        await site.sweep()
        assert site.path_of(claims.replica_id).read_bytes() == BODY


async def test_a_server_knows_how_much_of_its_disk_could_be_free(database: Database, tmp_path: Path) -> None:
    async def tells(evictable_bytes: int) -> bool:
        async with database.connection() as connection:
            [server] = await replicas.live_servers(connection)
        return server.evictable_bytes == evictable_bytes

    site = await make_site(database, tmp_path / "cache")
    async with running(site, heartbeat_seconds=0.1):
        file, _ = await recalled(site)
        await eventually(lambda: tells(len(BODY)))
        async with database.transaction() as connection:
            await replicas.pin(connection, owner="job:1", files=[file], lifetime_seconds=60)
        await eventually(lambda: tells(0))


def test_what_goes_while_it_is_looked_at_is_counted_once() -> None:
    looked = Evictable(cast(Service, None))
    looked._known, looked._known_at = 1000, time.monotonic()
    looked._after, looked._found = 10, 400
    looked.gone({5: 100, 15: 50})
    assert looked.bytes == 850
    assert looked._found == 300
    looked._known_at -= AGE_SECONDS_MAX
    assert looked.bytes is None


async def test_what_could_go_is_looked_at_again_soon_after_the_catalog_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OverError(Exception):
        pass

    clock, rests = SimpleNamespace(now=1000.0), list[float]()

    async def look() -> bool:
        clock.now += 60.0
        raise CatalogUnreachable(what="catalog", why="it restarts", retry_after_seconds=1.0)

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        raise OverError

    looked = Evictable(cast(Service, None))
    monkeypatch.setattr(looked, "look", look)
    monkeypatch.setattr(evictable, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(evictable, "asyncio", SimpleNamespace(sleep=sleep))
    with pytest.raises(OverError):
        await looked.look_for_ever()
    assert rests == [evictable.REST_SECONDS_MAX], "twenty minutes long the planner would go by what was known before"

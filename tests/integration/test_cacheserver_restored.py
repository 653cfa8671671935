"""A cache server whose catalog went on from a backup, whose stop was unclean, or whose disk is away for a while."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from catalog import localities, replicas, restoring
from catalog.database import Database
from tests.integration.cache_site import Site, make_site, running
from tests.integration.test_cacheserver_upkeep import recalled, states
from tests.waiting import eventually

BODY = os.urandom(100_000)


async def scalar(site: Site, statement: str, **values: Any) -> Any:
    async with site.database.connection() as connection:
        return await connection.scalar(sa.text(statement), values)


async def all_checked(site: Site) -> bool:
    return not await scalar(site, "select count(*) from replica where state = 'on_disk' and not checked")


async def restore(site: Site) -> None:
    async with site.database.transaction() as connection:
        await restoring.begin_new_life(connection, source="x.dump")


async def test_after_an_unclean_stop_a_recalled_replica_s_path_is_told_again_once_it_was_checked(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site, orderly=False):
        file, replica = await recalled(site)
    async with running(site):
        await eventually(lambda: all_checked(site))
        assert (await states(site))[replica] == "on_disk"
    # And of a doubt that was never cleared up the row knows, however orderly the stop.
    await scalar(site, "update replica set checked = false where id = :id returning id", id=replica)
    async with database.connection() as connection:
        assert (await localities.places(connection, [file]))[file].on_disk
    async with running(site):
        await eventually(lambda: all_checked(site))


async def test_after_a_restore_every_replica_is_looked_at_and_nothing_is_deleted(
    database: Database, tmp_path: Path
) -> None:
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        kept, _ = await site.store("/exp/kept", BODY)
        damaged, _ = await site.store("/exp/damaged", BODY)
        forgotten, _ = await site.store("/exp/forgotten", BODY)
    # What the backup does not know, and what was changed since, with its size as it was.
    await scalar(site, "delete from archive returning id")
    await scalar(site, "delete from replica where id = :id returning id", id=forgotten.replica_id)
    await scalar(site, "update cache_server set taken_bytes = taken_bytes - :n returning name", n=len(BODY))
    site.path_of(damaged.replica_id).write_bytes(BODY[::-1])
    await restore(site)
    async with running(site):
        await eventually(lambda: all_checked(site))
        found = await states(site)
        assert found == {kept.replica_id: "on_disk", damaged.replica_id: "quarantined"}
        status, body, _ = await site.get(site.get_url(kept.replica_id, BODY))
        assert (status, body) == (200, BODY)
    aside = {path.name.partition(".")[0] for path in site.files_below("quarantine")}
    assert aside == {str(damaged.replica_id), str(forgotten.replica_id)}
    assert {path.read_bytes() for path in site.files_below("quarantine")} == {BODY, BODY[::-1]}


async def test_a_restore_under_a_server_that_goes_on_is_noticed(
    database: Database, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("cacheserver.reconcile.INCARNATION_SECONDS", 0.05)
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        stored, _ = await site.store("/exp/f", BODY)
        site.path_of(stored.replica_id).write_bytes(BODY[::-1])
        await restore(site)

        async def put_aside() -> bool:
            return (await states(site))[stored.replica_id] == "quarantined"

        await eventually(put_aside)


async def test_a_disk_that_is_away_has_lost_nothing(database: Database, tmp_path: Path) -> None:
    site = await make_site(database, tmp_path / "cache")
    away = tmp_path / "unmounted"
    async with running(site, heartbeat_seconds=0.05, reconcile_seconds=0.05):
        stored, _ = await site.store("/exp/f", BODY)
        url = site.get_url(stored.replica_id, BODY)
        await asyncio.to_thread(site.root.rename, away)
        site.root.mkdir()

        async def refused() -> bool:
            status, _, _ = await site.get(url)
            return status == 503

        await eventually(refused)
        await eventually(lambda: is_silent(site))
        assert (await states(site))[stored.replica_id] == "on_disk"
        for left in site.root.iterdir():
            left.rmdir()
        site.root.rmdir()
        await asyncio.to_thread(away.rename, site.root)

        async def served() -> bool:
            status, body, _ = await site.get(url)
            return (status, body) == (200, BODY)

        await eventually(served)
        assert (await states(site))[stored.replica_id] == "on_disk"


async def is_silent(site: Site) -> bool:
    """No heartbeat for many of its intervals: soon nobody is sent there."""
    return bool(await scalar(site, "select heartbeat_at < capstan_now() - interval '0.5 s' from cache_server"))


async def test_what_stopped_being_safe_meanwhile_is_lost_not_dropped(database: Database, tmp_path: Path) -> None:
    """Whether the file is safe is asked behind the locks, not before them."""
    site = await make_site(database, tmp_path / "cache")
    async with running(site):
        _, replica = await recalled(site)

    async def absent() -> bool:
        async with database.transaction() as connection:
            return await replicas.mark_absent(connection, replica, "gone")

    async with database.transaction() as holder:
        await holder.execute(sa.text("select from cache_server for update"))
        task = asyncio.create_task(absent())
        waiting = (
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        )
        await eventually(lambda: scalar(site, waiting))
        await scalar(site, "update copy set broken_at = capstan_now() returning id")
    assert await task
    assert await states(site) == {replica: "lost"}

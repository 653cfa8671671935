"""The life of a volume on a whole site: read back, written again elsewhere, given up, labelled anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from catalog import maintenance, volumes
from catalog.database import PLANNER, Database
from catalog.maintenance import Maintenance
from tapeserver.library.faults import Fault, inject
from tests.integration.onesite import (
    Site,
    all_safe,
    content,
    drop_all,
    no_drift,
    put_many,
    quiet,
    running_site,
)
from tests.waiting import eventually


async def begin(site: Site, kind: str, key: str, **options: Any) -> int:
    async with site.database.transaction() as connection:
        made = await maintenance.begin(connection, kind, key, who="ann", reason="test", options=options)
    site.database.wake(PLANNER)
    return made


async def ended(site: Site, id: int) -> Maintenance:
    async def look() -> Maintenance | None:
        async with site.database.connection() as connection:
            [row] = [one for one in await maintenance.listed(connection) if one.id == id]
        return None if row.live else row

    found: Maintenance = await eventually(look, seconds=60)
    return found


async def archived(site: Site, count: int, size: int, storage_class: str = "one") -> list[str]:
    paths = await put_many(site, count, size, storage_class=storage_class)
    await eventually(lambda: all_safe(site), seconds=60)
    return paths


async def volume_of(site: Site, library: str = "east") -> str:
    return str(await site.scalar("select c.volume from copy c join volume v on v.vid = c.volume"
                                 " where v.library = :library order by c.id limit 1", library=library))  # fmt: skip


async def test_a_volume_is_read_back_and_a_copy_that_two_drives_cannot_read_is_replaced(
    database: Database, tmp_path: Path
) -> None:
    async with running_site(database, tmp_path, cartridges=2) as site:
        await archived(site, 6, 300_000, "two")
        await drop_all(site)
        vid = await volume_of(site)
        bad = await site.scalar(
            "select first_block from copy where volume = :vid order by first_block, byte_offset offset 2 limit 1",
            vid=vid,
        )
        inject(tmp_path / "east", Fault("unreadable", volume=vid, block=bad + 4))
        row = await ended(site, await begin(site, "verify", vid))
        broken = await site.scalar("select count(*) from copy where volume = :vid and broken_at is not null", vid=vid)
        assert broken >= 1
        assert (row.state, row.done_files, row.errors) == ("done", 6, broken)

        async def in_two_drives() -> bool:
            query = "select count(distinct drive) from mount_history where volume = :vid and purpose = 'verify'"
            return bool(await site.scalar(query, vid=vid) == 2)

        await eventually(in_two_drives)
        assert await site.scalar("select verified_at is not null from volume where vid = :vid", vid=vid)
        assert await site.scalar("select read_at is not null from volume where vid = :vid", vid=vid)
        # The other copy is brought from the other library, and the broken one made again.
        await eventually(lambda: all_safe(site), seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        assert await no_drift(site)


async def test_a_volume_is_repacked_while_users_read_then_reclaimed_and_labelled_with_the_next_generation(
    database: Database, tmp_path: Path
) -> None:
    async with running_site(
        database, tmp_path, libraries=("east",), cartridges=2, repack_files_ahead=3, maintenance_seconds=0.2
    ) as site:
        paths = await archived(site, 7, 50_000)
        await drop_all(site)
        vid = await volume_of(site)
        await site.http.delete(site.url + paths[6])
        made = await begin(site, "repack", vid)
        await site.stage(paths[3])
        row = await ended(site, made)
        assert (row.state, row.done_files, row.errors) == ("done", 6, 0)
        assert await site.scalar("select state from volume where vid = :vid", vid=vid) == "closed"
        assert await site.scalar(
            "select count(*) from copy c join file f on f.id = c.file where volume = :vid and f.state = 'live'", vid=vid
        ) == 0  # fmt: skip
        assert await all_safe(site)
        await eventually(lambda: quiet(site), seconds=60)
        assert await no_drift(site)
        async with database.transaction() as connection:
            await connection.execute(sa.text(
                "insert into catalog_backup (began_at, path, bytes, sha256, verified_at)"
                " values (capstan_now(), '/b', 1, '', capstan_now())"))  # fmt: skip
            await volumes.relabel(connection, vid, who="ann", reason="used up", recycle_days=0)
        database.wake(PLANNER)

        async def relabelled() -> bool:
            found = await site.scalar("select state = 'active' and generation = 2 from volume where vid = :v", v=vid)
            return bool(found)

        await eventually(relabelled, seconds=60)
        await eventually(lambda: quiet(site), seconds=60)
        # It is written again, and what is read is what was written now.
        other = await site.scalar("select distinct volume from copy")
        await site.set_state("volumes", other, "disabled")
        again = await put_many(site, 2, 1000, prefix="/again")
        await eventually(lambda: all_safe(site), seconds=60)
        assert await site.scalar("select distinct generation from copy where volume = :vid", vid=vid) == 2
        await site.drop_from_cache("/again")
        left = "select count(*) = 0 from replica r join file f on f.id = r.file where f.stored_path like '/again/%'"
        await eventually(lambda: site.scalar(left))
        await site.stage(*again)
        await eventually(lambda: quiet(site), seconds=60)
        assert await site.get(again[1]) == content(1, 1000)

"""`capstan db rebuild`, put together: a site's empty database, its libraries as they are configured, their volumes.

Makes the rows of libraries, drives, pools and classes that the configuration names, as the first start does, but no
label: what is on the volumes is the catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from capstan.config import Configuration
from capstan.first_start import make_storage_class
from capstan.sitecatalog import SiteCatalog, for_all_rows
from catalog import migrate, rebuild, rebuilding, volumes
from catalog.errors import BadConfig, BadRequest, Refused
from jobserver.migrations import upgrade as upgrade_jobs
from tapeserver.library import open_library
from tapeserver.scan.rescanning import Progress, Rescan

CONNECTIONS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator asked for. `scan_only`: other libraries come later, the catalog is made then."""

    libraries: Sequence[str]
    data: Path | None = None
    journal: Path | None = None
    catalog_id: str | None = None
    scan_only: bool = False
    #: make the catalog although some volumes could not be read
    incomplete: bool = False


async def rebuild_site(site: SiteCatalog, wish: Wish, tell: Callable[[Progress], None]) -> rebuilding.Outcome | None:
    """The catalog of `site`, which must be empty, made again from its volumes; None after a `scan_only`.

    What was broken off goes on. Raises CapstanError.
    """
    await migrate.upgrade(site.url)
    await upgrade_jobs(site.url)
    async with for_all_rows(site.url, "capstan db rebuild", connections_max=CONNECTIONS_MAX) as database:
        async with database.connection() as connection:
            await rebuild.refuse_unless_empty(connection)
        async with database.transaction() as connection:
            await _make_media(connection, site.configuration, wish)
        rescan = Rescan(database, catalog_id=wish.catalog_id, tell=tell)
        await rescan.run(wish.libraries)
        journal = wish.journal or site.journal_dir
        if wish.journal is not None and not wish.journal.is_dir():
            raise BadConfig(source=str(wish.journal), why="there is no such directory")
        if journal is not None and journal.is_dir():
            await rescan.add_directory(journal)
        if wish.scan_only:
            return None
        async with database.connection() as connection:
            failed = await rebuild.failed(connection)
        if failed and not wish.incomplete:
            vid, why = failed[0]
            what = f"{len(failed)} volumes could not be read, {vid} because: {why}"
            raise Refused(why=f"{what}; call it again to try them again, or with --incomplete to do without them")
        async with database.transaction() as connection:
            return await rebuilding.finish(connection, catalog_id=wish.catalog_id)


async def _make_media(connection: AsyncConnection, configuration: Configuration, wish: Wish) -> None:
    """Libraries, drives, pools and classes of the configuration; known ones stay as they are."""
    known = {one.name for one in await volumes.list_libraries(connection)}
    for section in configuration.libraries:
        place = Path(section.path or f"libraries/{section.name}")
        if not place.is_absolute():
            if wish.data is None:
                if section.name in wish.libraries and section.name not in known:
                    why = f"the path of library {section.name} is below a data directory: name it with --data"
                    raise BadConfig(source="configuration", why=why)
                continue
            place = wish.data / place
        spec = {"kind": section.kind, "name": section.name, "path": str(place.absolute())}
        if section.name in wish.libraries:
            drives = [one.drive for one in (await asyncio.to_thread(open_library(spec).inventory)).drives]
        else:
            drives = []
        await volumes.create_library(connection, name=section.name, kind=section.kind, spec=spec)
        for drive in drives:
            await volumes.create_drive(connection, name=drive, library=section.name)
        known.add(section.name)
    for pool in configuration.pools:
        if pool.library in known:
            await volumes.create_pool(connection, name=pool.name, library=pool.library)
    for one in configuration.storage_classes:
        try:
            await make_storage_class(connection, one)
        except BadRequest:
            # Its pools are in a library that is not known here: what its files tell is all there is.
            continue

"""Where a site's catalog is, for commands that work on the database itself: a data directory, or a configuration file.

Starts the embedded server when it does not run, and stops it again then. Says nothing to any door.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from capstan.config import Configuration, read_configuration
from capstan.local_defaults import backup_directory, journal_directory
from capstan.up import only_one, recorded_configuration
from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from catalog.errors import BadConfig, CapstanError
from catalog.journalformat import BadSegment, decode_segment, number_of
from catalog.lostfiles import LostLife
from catalog.rebuilding import segments_that_count
from tapeserver.library import open_library
from tapeserver.library.sense import DriveFault

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCatalog:
    url: str
    configuration: Configuration
    #: None: not kept there
    journal_dir: Path | None
    backup_dir: Path | None
    binaries: Path | None


@asynccontextmanager
async def site_catalog(
    data: Path | None, config_path: Path | None, *, stopped: bool = False
) -> AsyncIterator[SiteCatalog]:
    """The catalog of the data directory, or of a site's configuration file. `stopped`: only while nothing runs on it.

    Raises BadConfig, Unavailable (`capstan up` runs), CatalogUnreachable.
    """
    if data is None and config_path is None:
        raise BadConfig(source="command line", why="say which catalog: --data DIR or --config FILE")
    path = config_path or (recorded_configuration(data) if data else None)
    configuration = read_configuration(path)
    binaries = Path(configuration.database.binaries) if configuration.database.binaries else None
    postgres: EmbeddedPostgres | None = None
    was_running = False
    with ExitStack() as held:
        if data is not None:
            if not data.is_dir():
                raise BadConfig(source=str(data), why="there is no such data directory")
            if stopped:
                held.enter_context(only_one(data))
        url = configuration.database.url
        if not url:
            if data is None:
                raise BadConfig(source=str(path), why="it has no [database] url: name the data directory with --data")
            postgres = EmbeddedPostgres(data, binaries=binaries)
            was_running = await postgres.is_running()
            url = postgres.url if was_running else await postgres.start()
        try:
            yield SiteCatalog(
                url=url,
                configuration=configuration,
                journal_dir=journal_directory(configuration, data),
                backup_dir=backup_directory(configuration, data),
                binaries=binaries,
            )
        finally:
            if postgres is not None and not was_running:
                await postgres.stop()


def for_all_rows(url: str, who: str, *, connections_max: int) -> Database:
    """For a command that changes every row in one transaction, which takes as long as there are files.

    Only for a catalog that nobody uses: what bounds the steps of servers would make such a command impossible.
    """
    return Database(
        url,
        connections_max=connections_max,
        application_name=who,
        statement_seconds_max=None,
        idle_in_transaction_seconds_max=0,
    )


async def highest_epoch(database: Database) -> tuple[int, list[str]]:
    """The highest epoch that the catalog's libraries report, and those that do not answer, each with the reason."""
    from catalog import volumes

    async with database.connection() as connection:
        libraries = await volumes.list_libraries(connection)
    highest, silent = 0, []
    for library in libraries:
        try:
            epochs = [drive.epoch for drive in open_library(library.spec).inventory().drives]
        except (DriveFault, CapstanError, OSError, KeyError) as error:
            silent.append(f"{library.name}: {error}")
            continue
        highest = max([highest, *epochs])
    return highest, silent


def highest_segment(directory: Path | None) -> int:
    """The highest number of a journal segment in the directory; 0 without any."""
    if directory is None or not directory.is_dir():
        return 0
    return max((number_of(path.name) or 0 for path in directory.iterdir()), default=0)


def lost_life(directory: Path | None, catalog_id: str, *, above: int) -> tuple[LostLife, list[str]]:
    """What segments above this number tell of the life that wrote the newest one; and what is missing of them."""
    lost, problems, heads, paths = LostLife(), [], {}, {}
    for path in sorted(directory.iterdir()) if directory is not None and directory.is_dir() else ():
        number = number_of(path.name)
        if number is None or number <= above:
            continue
        try:
            head, _ = decode_segment(path.read_bytes())
        except (OSError, BadSegment) as error:
            problems.append(f"{path.name}: {error}")
            continue
        if head.catalog_id.lower() == catalog_id.lower() and head.number == number:
            # What lies before is known.
            heads[number] = head if head.previous > above else msgspec.structs.replace(head, previous=0)
            paths[number] = path
    numbers, missing = segments_that_count(heads)
    for number in numbers:
        lost.hear(decode_segment(paths[number].read_bytes())[1])
    return lost, problems + missing

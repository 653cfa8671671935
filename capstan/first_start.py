"""What the first `capstan up` makes: schema, libraries with labelled volumes, pools, storage classes, tokens.

Every step is safe to repeat and finds out for itself whether it is done, so a first start that was killed midway is
finished by the next. It changes nothing that exists: afterwards the catalog is where these things are kept.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from capstan.config import Configuration, LibrarySection, StorageClassSection
from catalog import identity, migrate, volumes
from catalog.database import Database
from catalog.errors import Unauthenticated
from catalog.journal import STORAGE_CLASS
from catalog.model import Action, Grant
from catalog.units import parse_bytes
from tapeserver.labelling import label_volumes
from tapeserver.library import open_library
from tapeserver.library.virtual import add_cartridge, create_virtual_library, drive_names

#: of the pools that nobody but the system itself writes to, one a library
SYSTEM_POOL = "system-"
SYSTEM_COPIES_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Secrets made by the first start: the operator's, which the client records, and the job server's file."""

    operator: str
    jobserver_file: Path


async def prepare_catalog(
    database_url: str, configuration: Configuration, data: Path, *, say: Callable[[str], None]
) -> Tokens:
    """Bring the catalog to what the servers need. Raises CapstanError."""
    await migrate.upgrade(database_url)
    async with Database(database_url, connections_max=2, application_name="capstan up") as database:
        async with database.connection() as connection:
            known = {library.name for library in await volumes.list_libraries(connection)}
        for section in configuration.libraries:
            await _prepare_library(database, section, data, known, configuration, say)
        async with database.transaction() as connection:
            for storage_class in configuration.storage_classes:
                await make_storage_class(connection, storage_class)
            await _system_class(connection)
        tokens = data / "tokens"
        operator = await _token(database, tokens / "operator.token", label="operator", recorded=True)
        await _token(database, tokens / "jobserver.token", label="jobserver", recorded=False)
        return Tokens(operator=operator, jobserver_file=tokens / "jobserver.token")


async def make_storage_class(connection: AsyncConnection, section: StorageClassSection) -> None:
    """As it is configured. Raises BadRequest, as when its pools are not known."""
    await volumes.create_storage_class(
        connection,
        name=section.name,
        copies=section.copies,
        pools=section.pools,
        evict_degraded=section.evict_degraded,
        is_default=section.default,
    )


async def _prepare_library(
    database: Database,
    section: LibrarySection,
    data: Path,
    known: set[str],
    configuration: Configuration,
    say: Callable[[str], None],
) -> None:
    path = data / (section.path or f"libraries/{section.name}")
    pools = [pool.name for pool in configuration.pools if pool.library == section.name]
    capacity = parse_bytes(section.capacity)
    prefix = section.vid_prefix or section.name[:1].upper()
    vids = [f"{prefix}{number:05d}" for number in range(1, section.cartridges + 1)]
    system_vids = [f"{prefix}S{number:04d}" for number in range(1, section.system_cartridges + 1)]
    lifelike = {key: value for key, value in (("medium", section.medium), ("speed", section.speed)) if value}
    if section.name not in known:
        say(f"making library {section.name}: {section.drives} drives, {section.cartridges} cartridges")
        slots = len(vids) + len(system_vids)
        library = await asyncio.to_thread(create_virtual_library, path, section.name, section.drives, slots)
        for vid in (*vids, *system_vids):
            await asyncio.to_thread(add_cartridge, path, vid, capacity)
        spec = library.spec() | lifelike
        # Refused here, with the reason, rather than by the first mount.
        await asyncio.to_thread(open_library, spec)
    else:
        # The data directory may have been moved as a whole.
        spec = {"kind": section.kind, "name": section.name, "path": str(path.absolute())} | lifelike
        # One that was made without them has no slots for them.
        inventory = await asyncio.to_thread(open_library(spec).inventory)
        system_vids = [vid for vid in system_vids if vid in inventory.volumes]
    async with database.transaction() as connection:
        await volumes.create_library(connection, name=section.name, kind=section.kind, spec=spec)
        for drive in await asyncio.to_thread(drive_names, path, section.name):
            await volumes.create_drive(connection, name=drive, library=section.name)
        for pool in (*pools, *([SYSTEM_POOL + section.name] if system_vids else [])):
            await volumes.create_pool(connection, name=pool, library=section.name)
    if pools:
        await label_volumes(database, section.name, pools[0], vids, capacity_bytes=capacity)
    if system_vids:
        await label_volumes(database, section.name, SYSTEM_POOL + section.name, system_vids, capacity_bytes=capacity)


async def _system_class(connection: AsyncConnection) -> None:
    """The class of the journal's files: in two libraries where there are two."""
    pools = [name for name, _ in await volumes.list_pools(connection) if name.startswith(SYSTEM_POOL)]
    if pools:
        copies = min(SYSTEM_COPIES_MAX, len(pools))
        await volumes.create_storage_class(connection, name=STORAGE_CLASS, copies=copies, pools=pools)


async def _token(database: Database, path: Path, *, label: str, recorded: bool) -> str:
    """The secret in `path`, made when there is none that the catalog knows."""
    if path.exists():
        secret = path.read_text().strip()
        try:
            async with database.connection() as connection:
                await identity.principal_of(connection, secret)
            return secret
        except Unauthenticated:
            path.unlink()
    owner = "operator" if recorded else label
    async with database.transaction() as connection:
        made = await identity.make_token(
            connection,
            label=label,
            owner=owner,
            groups=[owner],
            grants=[Grant(action=Action.ADMIN, prefix="/")],
            lifetime_seconds=None,
            recorded=recorded,
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(made.secret + "\n")
    return made.secret

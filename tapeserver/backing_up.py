"""Backups of the catalog on time, by the one tape server that holds the lease. How one is made is catalog.backups'."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from catalog import backups
from catalog.database import Database
from tapeserver.config import Config
from tapeserver.leasedrounds import rounds_under_lease

log = structlog.get_logger(__name__)

LEASE = "backup"
#: between looks whether one is due; one that failed is tried again after that
ROUND_SECONDS = 60.0


async def backup_forever(database: Database, config: Config, closing: asyncio.Event) -> None:
    """Every tape server runs this, and the one with the lease works. Without `backup_dir` nobody does."""
    if not config.backup_dir:
        log.warning("this tape server makes no backups of the catalog: backup_dir is not set")
        return
    binaries = Path(config.postgresql_binaries) if config.postgresql_binaries else None

    async def work() -> None:
        async with database.connection() as connection:
            due = await backups.is_due(connection, hours=config.backup_hours)
        if due:
            made = await backups.make_backup(
                database, Path(config.backup_dir), keep=config.backup_keep, binaries=binaries
            )
            log.info("catalog backed up", path=str(made.path), bytes=made.bytes, rows=made.rows, verified=made.how)

    await rounds_under_lease(
        database, LEASE, config.name, work,
        lease_seconds=config.lease_seconds, round_seconds=ROUND_SECONDS, first_seconds=ROUND_SECONDS, closing=closing,
    )  # fmt: skip

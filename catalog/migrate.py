"""Brings the catalog's schema to the newest revision. The configuration is in the package; there is no alembic.ini.

Several servers that start at once each call `upgrade`: one works, the others wait and find it done. What a revision
changes stands in catalog/migrations/versions.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

SCRIPTS = Path(__file__).with_name("migrations")
#: any number, the same in every release: the advisory lock that upgrades queue for
_LOCK = 0x4341_5053


async def upgrade(url: str, revision: str = "head", *, scripts: Path = SCRIPTS) -> None:
    """Apply every revision up to `revision` that the database at `url` lacks. Safe to repeat, and at the same time.

    `scripts`: another schema's history instead of the catalog's, with its own version table (see jobserver/migrations).
    """
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            # Ends the transaction but not the lock, which the session holds: each revision commits by itself.
            await connection.commit()
            await connection.run_sync(_upgrade, revision, scripts)
            await connection.commit()
    finally:
        await engine.dispose()


async def revision_of(connection: AsyncConnection) -> str | None:
    """The revision that the connected database is at; None before the first."""
    return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


def head() -> str | None:
    """The newest revision of this release."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def configuration(scripts: Path = SCRIPTS) -> Config:
    """alembic's configuration, as the `alembic` command would read it from a file."""
    config = Config()
    # Config values pass through "%" interpolation, and an installation path may hold one.
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: sa.Connection, revision: str, scripts: Path) -> None:
    config = configuration(scripts)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)

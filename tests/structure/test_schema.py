"""Two places that must say the same: the migrated database, and the Python that mirrors it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from catalog import migrate, states
from catalog.database import Database
from catalog.tables import metadata


async def test_a_fresh_database_is_at_the_newest_revision(database: Database) -> None:
    async with database.connection() as connection:
        assert await migrate.revision_of(connection) == migrate.head() is not None


def test_revisions_are_one_line_without_branches() -> None:
    assert len(ScriptDirectory.from_config(migrate.configuration()).get_heads()) == 1


async def test_servers_that_start_at_once_may_all_upgrade(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(3)))
    async with Database(empty_database_url) as database, database.connection() as connection:
        assert await migrate.revision_of(connection) == migrate.head()


async def test_the_tables_in_python_are_the_tables_in_the_database(database: Database) -> None:
    async with database.connection() as connection:
        assert await connection.run_sync(differences) == []


def differences(connection: sa.Connection) -> list[Any]:
    def ours(name: str | None, kind: str, parents: Any) -> bool:
        # Partitions of a history table come and go by themselves; the mirror holds their parent.
        return kind != "table" or name in metadata.tables

    context = MigrationContext.configure(
        connection,
        opts={
            "include_name": ours,
            "compare_type": True,
            # Defaults are the database's matter, and its spelling of them is not what was written.
            "compare_server_default": False,
        },
    )
    return list(compare_metadata(context, metadata))


async def test_no_table_is_missing_from_the_mirror(database: Database) -> None:
    async with database.connection() as connection:
        tables = (
            await connection.execute(
                sa.text(
                    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                    " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'alembic_version'"
                )
            )
        ).scalars()
    assert sorted(tables) == sorted(metadata.tables)


async def test_the_database_allows_exactly_the_steps_of_the_state_machines(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.execute(sa.text("SELECT machine, from_state, to_state FROM state_move"))
        in_database = {tuple(row) for row in rows}
    in_python = {
        (machine, present, target)
        for machine, moves in states.MACHINES.items()
        for present, targets in moves.items()
        for target in targets
    }
    assert in_database == in_python


@pytest.mark.parametrize("machine", sorted(states.MACHINES))
async def test_the_database_guards_every_machine_by_triggers(database: Database, machine: str) -> None:
    async with database.connection() as connection:
        triggers = (
            await connection.execute(
                sa.text("SELECT tgname FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass) AND NOT tgisinternal"),
                {"name": machine},
            )
        ).scalars()
    assert {f"{machine}_moves", f"{machine}_begins"} <= set(triggers)


async def test_what_goes_row_by_row_is_found_by_index_in_all_that_refers_to_it(database: Database) -> None:
    """Rows of these tables go by the thousand; for each the database looks through every table that refers to it."""
    async with database.connection() as connection:
        unindexed = await connection.scalars(
            sa.text(
                "select c.conrelid::regclass || '.' || a.attname from pg_constraint c"
                " join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]"
                " where c.contype = 'f' and c.confrelid::regclass::text in"
                "   ('node', 'file', 'copy', 'recall', 'stage_request')"
                " and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = a.attnum"
                "   and coalesce(pg_get_expr(i.indpred, i.indrelid), '') in"
                "       ('', format('(%s IS NOT NULL)', a.attname)))"
            )
        )
        assert unindexed.all() == []

"""What most tests of the catalog begin with: two libraries, as rows or as a small world. Others have their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from catalog.database import Database
from tests.catalog_world import World
from tests.store.media import two_libraries


@pytest.fixture
async def media(database: Database) -> Database:
    async with database.transaction() as connection:
        await two_libraries(connection)
    return database


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """In a transaction of the test's own."""
    async with database.transaction() as connection:
        found = World(connection)
        await found.media()
        yield found

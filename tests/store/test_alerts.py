"""Promises of alerts: said again they are one, until an operator has seen to it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from catalog import alerts
from catalog.database import Database
from catalog.errors import NotFound

CLEAN = {"code": "clean_now", "severity": "critical", "text": "The drive needs cleaning now."}


async def test_what_is_said_again_while_it_is_open_is_one_alert(database: Database) -> None:
    async with database.transaction() as connection:
        first = await alerts.raise_alert(connection, library="east", drive="east1", **CLEAN)
        assert first is not None
        assert await alerts.raise_alert(connection, library="east", drive="east1", **CLEAN) is None
        assert await alerts.raise_alert(connection, library="east", drive="east2", **CLEAN) is not None
        assert await alerts.raise_alert(connection, library="east", **CLEAN) is not None
        assert [one.drive for one in await alerts.open_alerts(connection, "east")] == [None, "east2", "east1"]
        assert [one.id for one in await alerts.open_alerts(connection, drive="east1")] == [first]
        assert await alerts.open_alerts(connection, "west") == []


async def test_a_cleared_alert_is_gone_with_who_cleared_it_and_may_come_again(database: Database) -> None:
    async with database.transaction() as connection:
        first = await alerts.raise_alert(connection, library="east", volume="E00001", **CLEAN)
        assert first is not None
        await alerts.clear_alert(connection, first, "ann")
        assert await alerts.open_alerts(connection) == []
        with pytest.raises(NotFound):
            await alerts.clear_alert(connection, first, "bob")
        assert await connection.scalar(sa.text("select cleared_by from alert")) == "ann"
        assert await connection.scalar(sa.text("select who from audit where action = 'alert cleared'")) == "ann"
        assert await alerts.raise_alert(connection, library="east", volume="E00001", **CLEAN) not in (None, first)


async def test_an_alert_has_one_of_the_known_severities(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        async with database.transaction() as connection:
            await alerts.raise_alert(connection, library="east", code="x", severity="loud", text="y")

"""Promises of what an operator tells the planner: checked, audited, in order, and noticed by its number."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from catalog import shares
from catalog.database import Database
from catalog.errors import BadRequest, NotFound, ReasonRequired
from catalog.model import WeightRule
from catalog.shares import Share

BY = {"who": "op", "reason": "agreed"}


async def test_a_share_is_made_changed_field_by_field_and_removed(database: Database) -> None:
    async with database.transaction() as connection:
        assert await shares.settings(connection) == shares.Settings(number=0)
        await shares.set_share(connection, "cms", changes={"weight": 3.0, "reading_drives": 4}, **BY)
        changed = await shares.set_share(connection, "cms", changes={"drive_seconds": 3600.0}, **BY)
        assert changed == Share(group="cms", weight=3.0, drive_seconds=3600.0, reading_drives=4)
        await shares.set_share(connection, "cms", "ann", changes={"weight": 0.5}, **BY)
        await shares.set_share(connection, "cms", changes={"reading_drives": None}, **BY)
        found = await shares.settings(connection)
        assert found.shares == (
            Share(group="cms", weight=3.0, drive_seconds=3600.0), Share(group="cms", owner="ann", weight=0.5)
        )  # fmt: skip
        await shares.remove_share(connection, "cms", **BY)
        assert await shares.shares(connection) == [Share(group="cms", owner="ann", weight=0.5)]
        with pytest.raises(NotFound):
            await shares.remove_share(connection, "cms", **BY)
        assert await shares.settings_number(connection) > found.number
        audited = (await connection.execute(sa.text("select action, object, reason from audit order by id"))).all()
        assert [tuple(row) for row in audited[-2:]] == [
            ("share set", "share cms", "agreed"), ("share removed", "share cms", "agreed")
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("group", "owner", "changes"),
    [
        ("", "", {}),
        ("x" * 201, "", {}),
        ("cms", "", {"weight": 0.0}),
        ("cms", "", {"weight": float("nan")}),
        ("cms", "", {"weight": 1e9}),
        ("cms", "", {"drive_seconds": -1.0}),
        ("cms", "", {"writing_drives": -1}),
        ("cms", "", {"reading_drives": 1 << 40}),
        ("cms", "ann", {"reading_drives": 1}),
    ],
)
async def test_a_share_that_makes_no_sense_is_refused(
    database: Database, group: str, owner: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest):
        async with database.transaction() as connection:
            await shares.set_share(connection, group, owner, changes=changes, **BY)
    async with database.connection() as connection:
        assert await shares.settings(connection) == shares.Settings(number=0)


async def test_rules_stand_in_order_and_move_up_when_one_goes(database: Database) -> None:
    first, second = WeightRule(weight=2.0, activity="t0*"), WeightRule(weight=0.1, group="guests", priority_max=20)
    between = WeightRule(weight=5.0, owner="prod")
    async with database.transaction() as connection:
        assert await shares.add_rule(connection, first, **BY) == 1
        assert await shares.add_rule(connection, second, **BY) == 2
        assert await shares.add_rule(connection, between, before=2, **BY) == 2
        assert await shares.rules(connection) == [first, between, second]
        assert await shares.remove_rule(connection, 1, **BY) == first
        assert await shares.rules(connection) == [between, second]
        assert await shares.settings_number(connection) == 4
        for place in (0, 3):
            with pytest.raises(NotFound):
                await shares.remove_rule(connection, place, **BY)
        for place in (0, 4):
            with pytest.raises(BadRequest):
                await shares.add_rule(connection, first, before=place, **BY)
        for wrong in (
            WeightRule(weight=-1.0),
            WeightRule(weight=1.0, activity="x" * 201),
            WeightRule(weight=1.0, priority_min=5, priority_max=4),
            WeightRule(weight=1.0, priority_max=40_000),
        ):
            with pytest.raises(BadRequest):
                await shares.add_rule(connection, wrong, **BY)


async def test_rules_that_are_added_at_once_are_all_there(database: Database) -> None:
    async def add(weight: float) -> None:
        async with database.transaction() as connection:
            await shares.add_rule(connection, WeightRule(weight=weight), **BY)

    await asyncio.gather(*(add(weight) for weight in (1.0, 2.0, 3.0, 4.0)))
    async with database.connection() as connection:
        assert sorted(rule.weight for rule in await shares.rules(connection)) == [1.0, 2.0, 3.0, 4.0]


async def test_every_change_needs_a_reason(database: Database) -> None:
    async with database.transaction() as connection:
        with pytest.raises(ReasonRequired):
            await shares.set_share(connection, "cms", changes={"weight": 1.0}, who="op", reason=" ")
        with pytest.raises(ReasonRequired):
            await shares.remove_share(connection, "cms", who="op", reason="")
        with pytest.raises(ReasonRequired):
            await shares.add_rule(connection, WeightRule(weight=1.0), who="op", reason="")
        with pytest.raises(ReasonRequired):
            await shares.remove_rule(connection, 1, who="op", reason="")

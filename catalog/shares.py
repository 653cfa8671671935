"""What an operator tells the planner: shares of the drives, limits of drives, and weights of requests.

Plain rows; what they lead to is the planner's. Every change has a reason, is in the audit log, and makes the number
grow by which a planner knows that it has to read them again. The caller of a change wakes PLANNER.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity
from catalog.errors import BadRequest, NotFound
from catalog.model import PRIORITY_MAX, PRIORITY_MIN, WeightRule
from catalog.planningtables import planning, share, weight_rule

SHARES_MAX = 10_000
RULES_MAX = 1_000
WEIGHT_MAX = 1e6
DRIVES_MAX = 10_000
DRIVE_SECONDS_MAX = 1e12
NAME_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a group has among groups or, with an owner, what he has inside his group."""

    group: str
    owner: str = ""
    weight: float = 1.0
    #: decayed drive-seconds above which there is less for him; None: no bound
    drive_seconds: float | None = None
    #: of a group: drives that read, and that write, for it at once in each library; None: any number
    reading_drives: int | None = None
    writing_drives: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of it at one time."""

    #: grows with every change
    number: int
    shares: tuple[Share, ...] = ()
    rules: tuple[WeightRule, ...] = ()


async def settings_number(connection: AsyncConnection) -> int:
    """Another number than before: something has changed, read the settings again."""
    return int(await connection.scalar(sa.select(planning.c.changes)) or 0)


async def settings(connection: AsyncConnection) -> Settings:
    """The number is read first: a change that comes between is seen again at the next look, and never missed."""
    number = await settings_number(connection)
    return Settings(number=number, shares=tuple(await shares(connection)), rules=tuple(await rules(connection)))


async def shares(connection: AsyncConnection) -> list[Share]:
    """By group, then owner; who is not there has the weight 1 and no bounds."""
    query = sa.select(share).order_by(share.c.grp, share.c.owner)
    return [_share(row) for row in (await connection.execute(query)).mappings()]


async def rules(connection: AsyncConnection) -> list[WeightRule]:
    """In the order in which they are tried."""
    query = sa.select(weight_rule).order_by(weight_rule.c.place)
    return [
        WeightRule(
            weight=row["weight"], activity=row["activity"], group=row["grp"], owner=row["owner"],
            priority_min=row["priority_min"], priority_max=row["priority_max"],
        )
        for row in (await connection.execute(query)).mappings()
    ]  # fmt: skip


async def set_share(
    connection: AsyncConnection, group: str, owner: str = "", *, changes: Mapping[str, Any], who: str, reason: str
) -> Share:
    """Change the fields of a share that `changes` names, one that is not there included; the share as it is now.

    Raises BadRequest, ReasonRequired.
    """
    named = _named(group, owner)
    reason = identity.reason_given(reason, object=named)
    _check_name("group", group)
    _check_name("owner", owner, may_be_empty=True)
    await _count_change(connection)
    query = sa.select(share).where(share.c.grp == group, share.c.owner == owner)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None and int(await connection.scalar(sa.select(sa.func.count()).select_from(share)) or 0) >= SHARES_MAX:
        raise BadRequest(why=f"there are {SHARES_MAX} shares already")
    present = Share(group=group, owner=owner) if row is None else _share(row)
    wanted = replace(present, **{key: value for key, value in changes.items() if key not in ("group", "owner")})
    _check_share(wanted)
    values = asdict(wanted)
    del values["group"], values["owner"]
    if row is None:
        await connection.execute(share.insert().values(grp=group, owner=owner, **values))
    else:
        await connection.execute(share.update().where(share.c.grp == group, share.c.owner == owner).values(**values))
    await identity.audit(connection, who=who, action="share set", object=named, reason=reason, detail=dict(changes))
    return wanted


async def remove_share(connection: AsyncConnection, group: str, owner: str = "", *, who: str, reason: str) -> None:
    """Back to what everybody has. Raises NotFound, ReasonRequired."""
    named = _named(group, owner)
    reason = identity.reason_given(reason, object=named)
    await _count_change(connection)
    gone = await connection.execute(share.delete().where(share.c.grp == group, share.c.owner == owner))
    if not gone.rowcount:
        raise NotFound(what=f"a {named}")
    await identity.audit(connection, who=who, action="share removed", object=named, reason=reason)


async def add_rule(
    connection: AsyncConnection, rule: WeightRule, *, before: int | None = None, who: str, reason: str
) -> int:
    """Put a rule before the one of this place (from 1 on), or last; its place. Those behind move on by one.

    Raises BadRequest, ReasonRequired.
    """
    reason = identity.reason_given(reason, object="weight rules")
    _check_rule(rule)
    await _count_change(connection)
    present = await rules(connection)
    if len(present) >= RULES_MAX:
        raise BadRequest(why=f"there are {RULES_MAX} rules already")
    place = len(present) + 1 if before is None else before
    if not 1 <= place <= len(present) + 1:
        raise BadRequest(why=f"there is no rule {before}; there are {len(present)}")
    await _write_rules(connection, [*present[: place - 1], rule, *present[place - 1 :]])
    detail = {"place": place, **asdict(rule)}
    await identity.audit(connection, who=who, action="rule added", object="weight rules", reason=reason, detail=detail)
    return place


async def remove_rule(connection: AsyncConnection, place: int, *, who: str, reason: str) -> WeightRule:
    """Take away the rule of this place; those behind move up by one. Raises NotFound, ReasonRequired."""
    reason = identity.reason_given(reason, object="weight rules")
    await _count_change(connection)
    present = await rules(connection)
    if not 1 <= place <= len(present):
        raise NotFound(what=f"weight rule {place}")
    gone = present.pop(place - 1)
    await _write_rules(connection, present)
    detail = {"place": place, **asdict(gone)}
    await identity.audit(
        connection, who=who, action="rule removed", object="weight rules", reason=reason, detail=detail
    )
    return gone


async def _count_change(connection: AsyncConnection) -> None:
    """First in every change: its row makes changes wait for each other, so that none is made of what has passed."""
    await connection.execute(planning.update().values(changes=planning.c.changes + 1))


async def _write_rules(connection: AsyncConnection, wanted: Sequence[WeightRule]) -> None:
    await connection.execute(weight_rule.delete())
    rows = [{"place": place, **asdict(rule)} for place, rule in enumerate(wanted, 1)]
    for row in rows:
        row["grp"] = row.pop("group")
    if rows:
        await connection.execute(weight_rule.insert(), rows)


def _share(row: sa.RowMapping) -> Share:
    return Share(
        group=row["grp"], owner=row["owner"], weight=row["weight"], drive_seconds=row["drive_seconds"],
        reading_drives=row["reading_drives"], writing_drives=row["writing_drives"],
    )  # fmt: skip


def _named(group: str, owner: str) -> str:
    return f"share {group}/{owner}" if owner else f"share {group}"


def _check_share(wanted: Share) -> None:
    _check_weight(wanted.weight)
    if wanted.drive_seconds is not None and not 0 <= wanted.drive_seconds <= DRIVE_SECONDS_MAX:
        raise BadRequest(why=f"an allotment has 0 to {DRIVE_SECONDS_MAX:g} drive-seconds, not {wanted.drive_seconds}")
    for drives in (wanted.reading_drives, wanted.writing_drives):
        if drives is None:
            continue
        if wanted.owner:
            raise BadRequest(why="drives are limited for groups, not for one owner")
        if not 0 <= drives <= DRIVES_MAX:
            raise BadRequest(why=f"a limit is of 0 to {DRIVES_MAX} drives, not {drives}")


def _check_rule(rule: WeightRule) -> None:
    _check_weight(rule.weight)
    for name in ("activity", "group", "owner"):
        _check_name(f"pattern of {name}", getattr(rule, name), may_be_empty=True)
    if not PRIORITY_MIN <= rule.priority_min <= rule.priority_max <= PRIORITY_MAX:
        raise BadRequest(
            why=f"priorities are from {PRIORITY_MIN} to {PRIORITY_MAX}, the lower one first, not "
            f"{rule.priority_min} to {rule.priority_max}"
        )


def _check_weight(weight: float) -> None:
    if not (math.isfinite(weight) and 0 < weight <= WEIGHT_MAX):
        raise BadRequest(why=f"a weight is above 0 and at most {WEIGHT_MAX:g}, not {weight:g}")


def _check_name(what: str, name: str, *, may_be_empty: bool = False) -> None:
    if (not name and not may_be_empty) or len(name) > NAME_MAX or "\0" in name:
        raise BadRequest(why=f"a {what} is 1 to {NAME_MAX} characters, not {name[:40]!r}")

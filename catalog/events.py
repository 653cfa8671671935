"""The event outbox: what happened, written in the transaction that made it happen, read in an order that skips nothing.

An event is at-least-once news, never a promise: every consumer also reconciles by state. Order is (transaction, id),
and only what lies below every open transaction is read; so an open writer holds later events back, and must be short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.errors import BadRequest
from catalog.sql import load

SQL = load("events")
READ_MAX = 1_000
_ID_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a reader has come. Good for one incarnation of the catalog: after a restore, ids start lower."""

    transaction: int
    id: int
    incarnation: str

    def __str__(self) -> str:
        return f"{self.transaction}.{self.id}.{self.incarnation}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The reverse of str(). Raises BadRequest."""
        parts = text.strip().split(".")
        if len(parts) != 3 or not (parts[0].isascii() and parts[0].isdigit() and parts[1].isascii()):
            raise BadRequest(why=f"{text[:80]!r} is not the position of an event")
        try:
            return cls(transaction=int(parts[0]), id=min(int(parts[1]), _ID_MAX), incarnation=parts[2])
        except ValueError as exc:
            raise BadRequest(why=f"{text[:80]!r} is not the position of an event") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    position: Position
    at: datetime
    #: noun and what happened to it: `file.stored`, `request.ended`
    kind: str
    #: the object: a path, a request id, a VID
    subject: str
    data: dict[str, Any]


async def emit(connection: AsyncConnection, kind: str, subject: str, data: Mapping[str, Any] | None = None) -> None:
    """Record one event in the caller's transaction."""
    await emit_many(connection, [(kind, subject, data or {})])


async def emit_many(connection: AsyncConnection, news: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Record events (kind, subject, data) in this order, with one statement."""
    if not news:
        return
    await connection.execute(
        sa.text(SQL["emit"]),
        {
            "kinds": [kind for kind, _, _ in news],
            "subjects": [subject for _, subject, _ in news],
            "data": [json.dumps(data) for _, _, data in news],
        },
    )


async def present(connection: AsyncConnection) -> Position:
    """The position behind everything that can be read now."""
    row = (await connection.execute(sa.text(SQL["present"]))).one()
    return Position(transaction=row.horizon - 1, id=_ID_MAX, incarnation=row.incarnation)


async def read_after(connection: AsyncConnection, position: Position, limit: int = READ_MAX) -> list[Event]:
    """Events behind `position`, oldest first, at most `limit`.

    A position of another incarnation reads from the beginning of what is kept: better twice than never.
    """
    now = await present(connection)
    start = position if position.incarnation == now.incarnation else Position(transaction=0, id=0, incarnation="")
    rows = await connection.execute(
        sa.text(SQL["read_after"]),
        {"transaction": start.transaction, "id": start.id, "limit": min(limit, READ_MAX)},
    )
    return [
        Event(
            position=Position(transaction=row.transaction, id=row.id, incarnation=now.incarnation),
            at=row.at,
            kind=row.kind,
            subject=row.subject,
            data=row.data,
        )
        for row in rows
    ]

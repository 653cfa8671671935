"""Who may do what: tokens, the keys that sign URLs, and the record of what people changed.

A token's secret is shown once and stored hashed. Whether a principal may do something is `model.authorize`, not here.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import tables
from catalog.errors import BadRequest, NotFound, ReasonRequired, Unauthenticated
from catalog.model import Action, Grant, Principal, grants_cover, join_path, parse_path
from catalog.signing import SigningKey
from catalog.sql import load

SQL = load("identity")
#: makes a secret that leaked into a log recognisable
_PREFIX = "capstan_"
GRANTS_MAX = 100_000
#: shown in one list
TOKENS_MAX = 10_000
#: a new key signs from this age of the last one on; each stays valid for twice as long
KEY_AGE_SECONDS_MAX = 7 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    token_id: int
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What may be shown of a token."""

    token_id: int
    owner: str
    groups: list[str]
    label: str
    #: [action, path prefix]
    grants: list[list[str]]
    created_at: datetime
    #: None: never
    expires_at: datetime | None


def parse_grants(pairs: Sequence[Sequence[str]]) -> tuple[Grant, ...]:
    """`[["read", "/exp"], …]` -> grants; prefixes are whole paths. Raises BadRequest, BadPath."""
    if len(pairs) > GRANTS_MAX:
        raise BadRequest(why=f"a token holds at most {GRANTS_MAX} grants")
    grants = []
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in list(Action):
            raise BadRequest(why=f"{pair!r} is not a grant; write [action, path], action one of {', '.join(Action)}")
        grants.append(Grant(action=Action(pair[0]), prefix=join_path(parse_path(pair[1]))))
    return tuple(grants)


def grants_beyond(principal: Principal, grants: Sequence[Grant]) -> list[Grant]:
    """Those of `grants` that the principal does not hold, so may not give away."""
    return [grant for grant in grants if not grants_cover(principal.grants, grant.action, grant.prefix)]


async def make_token(
    connection: AsyncConnection,
    *,
    label: str,
    owner: str,
    groups: Sequence[str],
    grants: Sequence[Grant],
    lifetime_seconds: float | None,
    recorded: bool = False,
) -> NewToken:
    """A new token; its secret is nowhere else. `lifetime_seconds=None` never expires."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    token_id = await connection.scalar(
        sa.text(SQL["insert_token"]),
        {
            "hash": _hash(secret),
            "label": label,
            "owner": owner,
            "groups": list(groups),
            "grants": json.dumps([[str(grant.action), grant.prefix] for grant in grants]),
            "recorded": recorded,
            "lifetime_seconds": lifetime_seconds,
        },
    )
    return NewToken(token_id=int(token_id), secret=secret)


async def tokens(connection: AsyncConnection, *, owner: str | None = None, limit: int = TOKENS_MAX) -> list[Token]:
    """Tokens that can still be used, the newest first; of one owner, or all. Their secrets are nowhere."""
    rows = await connection.execute(sa.text(SQL["valid_tokens"]), {"owner": owner, "limit": min(limit, TOKENS_MAX)})
    return [Token(**row._mapping) for row in rows]


async def principal_of(connection: AsyncConnection, secret: str) -> Principal:
    """Whose secret this is. Raises Unauthenticated when it is unknown, expired or revoked."""
    row = (await connection.execute(sa.text(SQL["token_by_hash"]), {"hash": _hash(secret)})).one_or_none()
    if row is None:
        raise Unauthenticated(why="this token is not known")
    if row.revoked:
        raise Unauthenticated(why="this token was revoked")
    if row.expired:
        raise Unauthenticated(why="this token has expired")
    return _principal(row)


async def principal_of_token(connection: AsyncConnection, token_id: int) -> Principal | None:
    """The principal of a token row, whether still valid or not: what was accepted under it stays accepted."""
    row = (await connection.execute(sa.select(tables.token).where(tables.token.c.id == token_id))).one_or_none()
    return None if row is None else _principal(row)


async def revoke_token(connection: AsyncConnection, token_id: int) -> str:
    """End a token now; repeating it changes nothing. The token's owner. Raises NotFound."""
    owner = await connection.scalar(sa.text(SQL["revoke_token"]), {"id": token_id})
    if owner is None:
        raise NotFound(what=f"token {token_id}")
    return str(owner)


async def owner_of_token(connection: AsyncConnection, token_id: int) -> str:
    """Raises NotFound."""
    owner = await connection.scalar(sa.select(tables.token.c.owner).where(tables.token.c.id == token_id))
    if owner is None:
        raise NotFound(what=f"token {token_id}")
    return str(owner)


async def signing_keys(connection: AsyncConnection) -> list[SigningKey]:
    """The keys that are valid now, the one to sign with first. Makes and rotates them as needed, so writes."""
    keys = await _keys(connection)
    if not keys or not keys[0][1]:
        await connection.execute(sa.text(SQL["lock_keys"]))
        keys = await _keys(connection)
        if not keys or not keys[0][1]:
            await connection.execute(
                sa.text(SQL["insert_key"]),
                {"secret": secrets.token_bytes(32), "lifetime_seconds": 2 * KEY_AGE_SECONDS_MAX},
            )
            keys = await _keys(connection)
    return [key for key, _ in keys[:2]]


async def expiry(connection: AsyncConnection, seconds: float) -> float:
    """The end of something signed now, in seconds since 1970 by the catalog's clock."""
    now = await connection.scalar(sa.text("SELECT extract(epoch FROM capstan_now())"))
    return float(now) + seconds


async def audit(
    connection: AsyncConnection,
    *,
    who: str,
    action: str,
    object: str,
    reason: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Record what a person (or an alarm) did, in the transaction that does it."""
    await connection.execute(
        tables.audit.insert().values(who=who, action=action, object=object, reason=reason, detail=dict(detail or {}))
    )


def reason_given(reason: str | None, *, object: str) -> str:
    """The reason without blanks around it. Raises ReasonRequired when there is none."""
    text = (reason or "").strip()
    if not text:
        raise ReasonRequired(object=object)
    return text


async def _keys(connection: AsyncConnection) -> list[tuple[SigningKey, bool]]:
    rows = await connection.execute(sa.text(SQL["valid_keys"]), {"age_seconds_max": KEY_AGE_SECONDS_MAX})
    return [(SigningKey(key_id=row.id, secret=bytes(row.secret)), row.young) for row in rows]


def _principal(row: sa.Row[Any]) -> Principal:
    return Principal(
        token_id=row.id,
        owner=row.owner,
        groups=tuple(row.groups),
        grants=tuple(Grant(action=Action(action), prefix=prefix) for action, prefix in row.grants),
        recorded=row.recorded,
    )


def _hash(secret: str) -> bytes:
    # Secrets are 256 random bits, so a plain hash is enough: there is nothing to guess.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()

"""Promises of tokens, grants, signing keys and the audit record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from catalog import identity
from catalog.database import Database
from catalog.errors import BadPath, BadRequest, Denied, NotFound, ReasonRequired, Unauthenticated
from catalog.model import Action, Grant, authorize

SetClock = Callable[[datetime | None], Awaitable[None]]


async def make(database: Database, *, lifetime_seconds: float | None = 60) -> identity.NewToken:
    async with database.transaction() as connection:
        return await identity.make_token(
            connection,
            label="t",
            owner="ann",
            groups=["cms", "users"],
            grants=identity.parse_grants([["read", "/exp"], ["create", "/exp/new/"]]),
            lifetime_seconds=lifetime_seconds,
        )


async def test_a_token_gives_its_owner_groups_and_grants_back_and_is_stored_hashed(database: Database) -> None:
    token = await make(database)
    async with database.connection() as connection:
        principal = await identity.principal_of(connection, token.secret)
        stored = (await connection.execute(sa.text("select t::text from token t"))).scalar_one()
    assert (principal.owner, principal.groups, principal.group) == ("ann", ("cms", "users"), "cms")
    assert principal.grants[1] == Grant(action=Action.CREATE, prefix="/exp/new")
    assert not principal.is_admin
    authorize(principal, Action.READ, "/exp/a")
    with pytest.raises(Denied):
        authorize(principal, Action.READ, "/expert")
    assert token.secret not in stored


async def test_unknown_revoked_and_expired_tokens_are_refused_with_the_reason(
    database: Database, set_clock: SetClock
) -> None:
    revoked, expiring, lasting = await make(database), await make(database), await make(database, lifetime_seconds=None)
    async with database.transaction() as connection:
        assert await identity.revoke_token(connection, revoked.token_id) == "ann"
        with pytest.raises(NotFound):
            await identity.revoke_token(connection, 999)
    await set_clock(datetime.now(UTC) + timedelta(seconds=61))
    async with database.connection() as connection:
        for secret, why in (("nonsense\ud800", "known"), (revoked.secret, "revoked"), (expiring.secret, "expired")):
            with pytest.raises(Unauthenticated, match=why):
                await identity.principal_of(connection, secret)
        assert (await identity.principal_of(connection, lasting.secret)).owner == "ann"
        kept = await identity.principal_of_token(connection, expiring.token_id)
        assert kept is not None
        assert kept.owner == "ann"


@pytest.mark.parametrize("pair", [["fly", "/"], ["read"], ["read", "/a", "b"]])
def test_a_grant_that_means_nothing_is_refused(pair: list[str]) -> None:
    with pytest.raises(BadRequest):
        identity.parse_grants([pair])


def test_a_grants_prefix_must_be_a_path() -> None:
    with pytest.raises(BadPath):
        identity.parse_grants([["read", "/a/../b"]])


async def test_nobody_gives_away_more_than_he_has(database: Database) -> None:
    token = await make(database)
    async with database.connection() as connection:
        principal = await identity.principal_of(connection, token.secret)
    wanted = identity.parse_grants([["poll", "/exp/a"], ["stage", "/exp"], ["read", "/exp/a/b"], ["read", "/"]])
    assert identity.grants_beyond(principal, wanted) == [wanted[1], wanted[3]]


async def test_there_is_always_a_key_to_sign_with_and_at_most_two_are_valid(
    database: Database, set_clock: SetClock
) -> None:
    async with database.transaction() as connection:
        first = await identity.signing_keys(connection)
        assert await identity.signing_keys(connection) == first
    for day in (8, 16):
        await set_clock(datetime.now(UTC) + timedelta(days=day))
        async with database.transaction() as connection:
            keys = await identity.signing_keys(connection)
        assert len(keys) == 2
        assert keys[0].key_id > keys[1].key_id
    assert first[0] not in keys


async def test_a_change_by_a_person_needs_a_reason_and_is_recorded(database: Database) -> None:
    with pytest.raises(ReasonRequired):
        identity.reason_given("  ", object="drive east-1")
    async with database.transaction() as connection:
        reason = identity.reason_given(" cleaning ", object="drive east-1")
        await identity.audit(
            connection, who="op", action="drive down", object="drive east-1", reason=reason, detail={"was": "up"}
        )
        row = (await connection.execute(sa.text("select who, reason, detail from audit"))).one()
    assert tuple(row) == ("op", "cleaning", {"was": "up"})

"""The way to PostgreSQL: one engine, transactions, COPY, and wake-ups between processes.

It holds no statement of any noun and decides nothing; the noun modules get a connection from here and run their SQL
on it. Nothing is retried inside: a transaction is the caller's promise, so the caller repeats it (`is_transient`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
import sqlalchemy as sa
import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from catalog.errors import CatalogUnreachable
from catalog.wakeups import Waker, Wakeups

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

#: Channels of `wake` and `listen`: states changed, so that a decision may be due; more or less waits than before, and
#: nothing else; mount rows or plan edits; evictions wanted or space freed; an event was written.
PLANNER, QUEUES, SESSIONS, CACHE, EVENTS = "planner", "queues", "sessions", "cache", "events"

CONNECT_SECONDS_MAX = 10.0
#: no single statement of ours takes longer, the COPY of a stage request of a million files included
STATEMENT_SECONDS_MAX = 300.0
#: an open writer holds every later event back, and its locks: a forgotten one, or one whose process was stopped, is
#: ended by the server
IDLE_IN_TRANSACTION_SECONDS_MAX = 60.0
#: how long a caller waits for a free connection before the catalog counts as unreachable for it
POOL_WAIT_SECONDS_MAX = 30.0
#: about this long, times the attempt, before a transaction that lost a deadlock is run again
RETRY_PAUSE_SECONDS = 0.02

# Classes 08 (connection) and the three that a server sends when it stops or starts; 53300: too many connections.
_LOST_SQLSTATES = ("57P01", "57P02", "57P03", "53300")
# Serialization failure, deadlock, lock not available: the same transaction may pass when it is run again.
_CONTENDED_SQLSTATES = ("40001", "40P01", "55P03")


class Database:
    """A bounded pool of connections to one PostgreSQL database, by SQLAlchemy URL (`postgresql+asyncpg://…`).

    Times in the session are UTC. Connections that a restart of the server broke are replaced before they are handed
    out. Close it, or use it as `async with Database(url) as database`.
    """

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = 10,
        application_name: str = "capstan",
        idle_in_transaction_seconds_max: float = IDLE_IN_TRANSACTION_SECONDS_MAX,
        statement_seconds_max: float | None = STATEMENT_SECONDS_MAX,
    ) -> None:
        self.url = url
        self.application_name = application_name
        self._idle_seconds_max = idle_in_transaction_seconds_max
        self._statement_seconds_max = statement_seconds_max
        self._apart: list[Database] = []
        self._engine = create_async_engine(
            url,
            pool_size=connections_max,
            max_overflow=0,
            # The one that was used last has its statements prepared, and planned once for all.
            pool_use_lifo=True,
            pool_timeout=POOL_WAIT_SECONDS_MAX,
            isolation_level="READ COMMITTED",
            connect_args={
                "timeout": CONNECT_SECONDS_MAX,
                "command_timeout": statement_seconds_max,
                "server_settings": _server_settings(application_name, self._idle_seconds_max),
            },
        )
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed_connection)
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._waker = Waker(self._notify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Send the last wake-ups, then close every connection. Safe to repeat."""
        await self._waker.close()
        await self.reset_connections()

    def apart(self, connections_max: int = 1) -> Database:
        """The same database by connections of their own, which are closed with all others: for work that cannot wait
        until one more is made (some fifty milliseconds) because others are using those that there are."""
        one = Database(
            self.url,
            connections_max=connections_max,
            application_name=self.application_name,
            idle_in_transaction_seconds_max=self._idle_seconds_max,
            statement_seconds_max=self._statement_seconds_max,
        )
        self._apart.append(one)
        return one

    async def reset_connections(self) -> None:
        """Replace every pooled connection, so that settings of the database (ALTER DATABASE … SET) take effect."""
        for one in (self, *self._apart):
            await one._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, READ COMMITTED: committed on leaving, rolled back when an exception leaves the block.

        Raises CatalogUnreachable when the connection is lost. Lost during COMMIT, nobody knows whether it was
        committed: what callers repeat must be safe to repeat. Constraint violations pass through (see `violates`).
        """
        async with self._connect() as connection:
            with _losses_typed(connection):
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading: each statement sees what is committed when it starts, nothing is held open."""
        async with self._connect(autocommit=True) as connection:
            with _losses_typed(connection):
                yield connection

    @asynccontextmanager
    async def _connect(self, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
        connection = (self._reader if autocommit else self._engine).connect()
        try:
            await connection.start()
        except (OSError, PoolTimeout, TimeoutError, asyncpg.PostgresError, DBAPIError, InvalidatePoolError) as error:
            # A wrong password or a missing database is told as it is: waiting does not mend it.
            if isinstance(error, (asyncpg.PostgresError, DBAPIError)) and not _is_loss(error):
                raise
            raise CatalogUnreachable(what="catalog", why=_reason(error), retry_after_seconds=1.0) from error
        try:
            yield connection
        finally:
            await asyncio.shield(connection.close())

    async def run(self, function: Callable[[AsyncConnection], Awaitable[_T]], *, attempts: int = 3) -> _T:
        """`await function(connection)` in a transaction, run again from its start when others contended for its rows.

        The function may be called up to `attempts` times, so outside the database it must change nothing. A lost
        connection is not retried: whether a lost COMMIT took effect, only the caller can find out.
        """
        for attempt in range(1, attempts + 1):
            try:
                async with self.transaction() as connection:
                    return await function(connection)
            except (DBAPIError, asyncpg.PostgresError) as error:
                if not _is_contention(error) or attempt == attempts:
                    raise
                log.debug("transaction run again", attempt=attempt, why=_reason(error))
            # Those who collided must not collide again at the same instant.
            await asyncio.sleep(random.uniform(0.5, 1.5) * RETRY_PAUSE_SECONDS * attempt)
        raise AssertionError("a transaction needs at least one attempt")

    def wake(self, channel: str) -> None:
        """Tell listeners of `channel`, soon, that something changed. Call it after the commit; never waits or raises.

        A hint: at most ten NOTIFYs a second per channel and process, whatever the number of calls; lost when the
        server is. Who listens polls slowly as well.
        """
        self._waker.wake(channel)

    def listen(self, channels: Iterable[str]) -> Wakeups:
        """Wake-ups on these channels, over a connection of its own: `async with database.listen(["x"]) as wakeups`."""
        return Wakeups(self._dedicated_connection, channels)

    async def _notify(self, channels: Sequence[str]) -> None:
        async with self.connection() as connection:
            await connection.execute(
                sa.text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel"),
                {"channels": list(channels)},
            )

    async def _dedicated_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """An asyncpg connection outside the pool, to the same database with the same settings."""
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            **arguments,
            timeout=CONNECT_SECONDS_MAX,
            server_settings=_server_settings(f"{self.application_name} listener", self._idle_seconds_max),
        )
        return connection


async def copy_rows(
    connection: AsyncConnection,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    schema: str | None = None,
) -> int:
    """COPY rows (tuples in the order of `columns`) into `table` within the connection's transaction; their number.

    The dialect sends BEGIN with the first statement and knows nothing of COPY: a COPY that came first would commit
    by itself and survive a rollback. So a statement always goes before it here. Constraint violations come as
    asyncpg's own errors; `violates` knows both kinds.
    """
    await connection.execute(sa.text("SELECT 1"))
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert driver is not None
    status: str = await driver.copy_records_to_table(table, schema_name=schema, columns=columns, records=rows)
    return int(status.rpartition(" ")[2])


def violates(error: BaseException, constraint_name: str) -> bool:
    """Whether the error says that the named constraint or unique index refused a row."""
    cause = _postgres_error(error)
    return cause is not None and getattr(cause, "constraint_name", None) == constraint_name


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction, run again from its start, may pass: contention, or the catalog unreachable."""
    return isinstance(error, CatalogUnreachable) or _is_contention(error)


def _server_settings(application_name: str, idle_seconds_max: float) -> dict[str, str]:
    return {
        "application_name": application_name[:63],
        "timezone": "UTC",
        # Planning cost estimates of our statements are far off for the JIT's taste: it costs more than it brings.
        "jit": "off",
        "synchronous_commit": "on",
        "idle_in_transaction_session_timeout": f"{round(idle_seconds_max * 1000)}ms",
    }


def _refuse_closed_connection(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    # Known without a round trip: asyncpg has seen the server close it. The pool then replaces all older ones.
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError("the server closed this connection")


@contextmanager
def _losses_typed(connection: AsyncConnection) -> Iterator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
        if not _is_loss(error) and not (_is_closed(connection) and not isinstance(error, CatalogUnreachable)):
            raise
        raise CatalogUnreachable(what="catalog", why=_reason(error), retry_after_seconds=1.0) from error


def _is_contention(error: BaseException) -> bool:
    cause = _postgres_error(error)
    return cause is not None and cause.sqlstate in _CONTENDED_SQLSTATES


def _is_loss(error: BaseException) -> bool:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _postgres_error(error)
    return cause is not None and (str(cause.sqlstate or "").startswith("08") or cause.sqlstate in _LOST_SQLSTATES)


def _is_closed(connection: AsyncConnection) -> bool:
    if connection.closed or connection.invalidated:
        return True
    proxied = connection.sync_connection
    driver = proxied.connection.driver_connection if proxied is not None else None
    return driver is None or bool(driver.is_closed())


def _postgres_error(error: BaseException | None) -> asyncpg.PostgresError | None:
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            return error
        error = getattr(error, "orig", None) or error.__cause__
    return None


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error) or type(error).__name__

"""pg_dump and pg_restore with the database of a URL, without a prompt and to their end. What for, catalog.backups says.

The password travels in the environment of the child, which only its user can read. A program whose caller is cancelled
is killed. The versions must fit: a dump can be made with the server's release or a later one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import URL, make_url

from catalog.errors import CatalogUnreachable, Refused
from catalog.postgresql_binaries import find_binaries

#: to whom one connects to make, rename and drop databases
MAINTENANCE_DATABASE = "postgres"
CONNECT_SECONDS_MAX = 10.0
#: nothing durable hangs on a copy that is being made: at its end everything is written in any case
_BULK_OPTIONS = "-c synchronous_commit=off -c maintenance_work_mem=256MB"


class ProgramFailed(Refused):
    """{program} failed: {why}."""

    code, http_status = "program_failed", 500


def program(name: str, binaries: Path | None = None) -> str:
    """Its path: in `binaries`, beside the server's own, or in PATH. Raises Refused, which says what to install."""
    places = [binaries] if binaries is not None else []
    with suppress(FileNotFoundError):
        places.append(find_binaries())
    for place in places:
        if (place / name).exists():
            return str(place / name)
    if (found := shutil.which(name)) is not None:
        return found
    raise Refused(why=f"there is no {name}; install PostgreSQL's client programs, or set [database] binaries")


async def run(url: str, *words: str, bulk: bool = False) -> str:
    """Run a program with the connection of `url` in its environment; its output. Raises ProgramFailed."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(make_url(url), bulk=bulk),
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        why = " ".join((errors or output).decode(errors="replace").split())[-1000:]
        raise ProgramFailed(program=Path(words[0]).name, why=why or f"exit code {process.returncode}")
    return output.decode(errors="replace")


@asynccontextmanager
async def plain_connection(url: str, database: str | None = None) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection without limits of time or transaction, to the URL's database or another one of the same server."""
    try:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            dsn=_with_database(url, database).set(drivername="postgresql").render_as_string(hide_password=False),
            timeout=CONNECT_SECONDS_MAX,
            server_settings={"timezone": "UTC", "application_name": "capstan backup"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise CatalogUnreachable(what="catalog", why=str(error) or type(error).__name__) from error
    try:
        yield connection
    finally:
        await asyncio.shield(connection.close())


def database_name(url: str) -> str:
    return make_url(url).database or ""


def url_of(url: str, database: str) -> str:
    """The URL of another database of the same server."""
    return _with_database(url, database).render_as_string(hide_password=False)


def quoted(name: str) -> str:
    """A name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _with_database(url: str, database: str | None) -> URL:
    return make_url(url) if database is None else make_url(url).set(database=database)


def _environment(url: URL, *, bulk: bool) -> dict[str, str]:
    query: dict[str, Any] = dict(url.query)
    settings = {
        "PGHOST": query.get("host") or url.host,
        "PGPORT": query.get("port") or url.port,
        "PGUSER": query.get("user") or url.username,
        "PGPASSWORD": query.get("password") or url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": query.get("sslmode") or query.get("ssl"),
        "PGPASSFILE": query.get("passfile") or os.environ.get("PGPASSFILE"),
        "PGOPTIONS": _BULK_OPTIONS if bulk else None,
        "HOME": os.environ.get("HOME"),
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "TZ": "UTC",
    }
    return {name: str(value) for name, value in settings.items() if value}

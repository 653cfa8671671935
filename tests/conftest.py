"""One PostgreSQL for each process of a run, one fresh migrated database for each test that asks.

`CAPSTAN_TEST_DATABASE_URL` (a SQLAlchemy URL of a role that may create databases) takes another server instead.
Nothing is left behind: the server stops with the run, and a later run clears up after one that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
import structlog
from sqlalchemy.engine import make_url

from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from catalog.migrate import upgrade

_T = TypeVar("_T")
_PR_SET_PDEATHSIG = 1
_PREFIX = "capstan-test-"
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 2 << 30


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """A command run in a test's own process sends the log to that test's stderr, which is closed when it ends."""
    yield
    structlog.reset_defaults()


def pytest_configure(config: pytest.Config) -> None:
    # `timeout` and CI end a run by SIGTERM: fixtures must still be torn down.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Begun in the background of a script: what a test starts would never hear of a Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _end)
    if hasattr(config, "workerinput"):
        # One of several (pytest-xdist): it also ends, and tears down, when the process that gives it tests is gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        signal.signal(signal.SIGINT, _end)
    with contextlib.suppress(ImportError):
        from xdist.workermanage import NodeManager

        # When a run is broken off the others have this long to stop their sites and servers before they are killed.
        NodeManager.EXIT_TIMEOUT = 60


def _end(*_: object) -> None:
    """Fixtures are torn down, and nothing breaks that off: who broke the run off signals more than once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pytest.exit("terminated", returncode=143)


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run to its end on a loop of its own, whether or not the calling thread has one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of a running server; tests want `database` or `database_url`."""
    if url := os.environ.get("CAPSTAN_TEST_DATABASE_URL"):
        yield url
        return
    _clear_up_after_killed_runs()
    directory = _make_server_directory()
    (directory / "pid").write_text(str(os.getpid()))
    server = EmbeddedPostgres(directory)
    try:
        url = run(server.start())
        # The log may lie in memory.
        run(_administer(url, "ALTER SYSTEM SET max_wal_size = '256MB'"))
        run(_administer(url, "SELECT pg_reload_conf()"))
        yield url
    finally:
        _remove(directory)


def _make_server_directory() -> Path:
    """A new directory for a server's data, to be removed by the caller."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base_directory()))
    directory.chmod(0o755)  # as root the server runs as nobody, and must get in
    return directory


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A directory for a server of the test's own; the test stops that."""
    directory = _make_server_directory()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _base_directory() -> Path:
    """In memory where there is plenty: fsync stays on, and costs nothing there."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES_MIN:
        return _MEMORY
    return Path(tempfile.gettempdir())


def _strategy() -> str:
    """How a database is copied: file by file costs two checkpoints, which are nothing in memory, and a seventh of what
    the log of all its pages costs; on a disk it is the other way round."""
    own = "CAPSTAN_TEST_DATABASE_URL" not in os.environ
    return "file_copy" if own and _base_directory() == _MEMORY else "wal_log"


def _clear_up_after_killed_runs() -> None:
    for directory in _base_directory().glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            pid = (directory / "pid").read_text().strip()
            # Empty, or not there yet: another process of this run begins there just now.
            if pid and not Path("/proc", pid).exists():
                _remove(directory)


def _remove(directory: Path) -> None:
    run(EmbeddedPostgres(directory).remove())
    (directory / "pid").unlink(missing_ok=True)
    directory.rmdir()


@pytest.fixture(scope="session")
def template_database(server_url: str) -> Iterator[str]:
    """A migrated database that nobody connects to, so that PostgreSQL can copy it."""
    name = f"capstan_template_{uuid4().hex[:8]}"
    run(_administer(server_url, f'CREATE DATABASE "{name}"'))
    try:
        run(upgrade(_with_database(server_url, name)))
        yield name
    finally:
        run(_administer(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def database_url(server_url: str, template_database: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    with _own_database(server_url, f'TEMPLATE "{template_database}" STRATEGY {_strategy()}') as url:
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """The URL of a database without a schema."""
    with _own_database(server_url, f"TEMPLATE template0 STRATEGY {_strategy()}") as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated, empty, fresh catalog."""
    async with Database(database_url, application_name="test") as found:
        yield found


@pytest.fixture
def set_clock(database: Database) -> Callable[[datetime | None], Awaitable[None]]:
    """`await set_clock(instant)`: what `capstan_now()` answers from now on, in this database; None: the real time.

    It reaches `database` at once, and other processes with their next connection.
    """

    async def set_(instant: datetime | None) -> None:
        name = make_url(database.url).database
        to = "DEFAULT" if instant is None else f"'{instant.isoformat()}'"
        async with database.transaction() as connection:
            await connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET capstan.now TO {to}')
        await database.reset_connections()

    return set_


@contextlib.contextmanager
def _own_database(server_url: str, options: str) -> Iterator[str]:
    name = f"capstan_test_{uuid4().hex[:12]}"
    run(_administer(server_url, f'CREATE DATABASE "{name}" {options}'))
    try:
        yield _with_database(server_url, name)
    finally:
        run(_administer(server_url, f'DROP DATABASE "{name}" WITH (FORCE)'))


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def _administer(url: str, statement: str) -> None:
    address = make_url(_with_database(url, "postgres")).set(drivername="postgresql")
    connection = await asyncpg.connect(address.render_as_string(hide_password=False))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

"""A PostgreSQL server of Capstan's own inside a data directory: found, initialised, started, adopted, stopped.

It listens on a unix socket in a directory that only its owner may enter, never on TCP. It runs detached from whoever
started it and ends only by `stop`. As root the server runs as `nobody` (PostgreSQL refuses root); where `nobody`
cannot reach the data directory or the binaries, both go below /var/lib/capstan. Where its files lie is
catalog.postgresql_cluster's matter, tables are catalog.migrate's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shlex
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import structlog

from catalog.errors import CatalogUnreachable
from catalog.postgresql_binaries import binaries_for, find_binaries, main_output, run_program, server_account
from catalog.postgresql_cluster import ROLE, Cluster

log = structlog.get_logger(__name__)

DATABASE = "capstan"
#: after kill -9 of the postmaster its children hold the shared memory for some seconds, and a start fails meanwhile
START_RETRY_SECONDS = 30.0
#: a start that replays much log may take this long before it is given up
START_SECONDS_MAX = 300
#: a fast stop that hangs this long is followed by an immediate one; nothing committed is lost by that
STOP_SECONDS_MAX = 30
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_DIR_PREFIXES = ("postgresql.socket", "capstan-")
#: of a socket directory that needs no quoting in a URL, a shell or a list of PostgreSQL's
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
#: sun_path holds 108 bytes, the last of them zero
_SOCKET_PATH_BYTES_MAX = 107

# Not for changing: what Capstan promises rests on the first two, who may connect on the others.
_COMMAND_LINE = {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "unix_socket_permissions": "0700"}

_NO_ANSWER = (
    OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError,
)  # fmt: skip


class EmbeddedPostgres:
    """The server of one data directory.

    `await start()` gives the URL for `catalog.database.Database`. Everything is safe to repeat, and safe to begin
    again after a kill at any point.
    """

    def __init__(self, data_dir: Path, *, binaries: Path | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self._binaries_setting = binaries
        self._account = server_account()
        self._cluster = Cluster(self.data_dir, self._account)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL (asyncpg, unix socket, password inside). Raises CatalogUnreachable while it is down."""
        running = self._running()
        if running is None:
            raise CatalogUnreachable(what="catalog", why=f"no PostgreSQL runs from {self.data_dir}")
        return self._url(running, DATABASE)

    async def start(self) -> str:
        """Start the server, or adopt the one that already runs from this directory; the URL of its database.

        The first start initialises the cluster. Raises CatalogUnreachable with the end of the server's log when it
        does not come up, FileNotFoundError when there are no binaries or a recorded cluster is gone.
        """
        give_up_at = time.monotonic() + START_RETRY_SECONDS
        while True:
            socket_dir = await asyncio.to_thread(self._start)
            try:
                await self._ensure_database(socket_dir)
            except _NO_ANSWER as error:
                # What looked alive was dying: a killed server is seen for some instants after its kill.
                if time.monotonic() > give_up_at:
                    raise CatalogUnreachable(what="catalog", why=f"PostgreSQL gives no answer: {error}") from error
                await asyncio.sleep(0.1)
            else:
                return self._url(socket_dir, DATABASE)

    async def stop(self) -> None:
        """Stop it, ending its connections (fast mode); returns when it has ended. Nothing to do when none runs."""
        await asyncio.to_thread(self._stop)

    async def remove(self) -> None:
        """Stop it and delete the cluster with everything that was stored in it."""
        await asyncio.to_thread(self._remove)

    async def is_running(self) -> bool:
        """Whether a server runs from this directory and accepts connections."""
        socket_dir = await asyncio.to_thread(self._running)
        if socket_dir is None:
            return False
        try:
            await (await self._connect(socket_dir, "postgres")).close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def _url(self, socket_dir: Path, database: str) -> str:
        return f"postgresql+asyncpg://{ROLE}:{self._cluster.password}@/{database}?host={quote(str(socket_dir))}"

    async def _connect(self, socket_dir: Path, database: str) -> asyncpg.Connection[asyncpg.Record]:
        password = self._cluster.password
        return await asyncpg.connect(host=str(socket_dir), user=ROLE, password=password, database=database, timeout=10)

    async def _ensure_database(self, socket_dir: Path) -> None:
        try:
            connection = await self._connect(socket_dir, "postgres")
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.TooManyConnectionsError) as error:
            raise CatalogUnreachable(what="catalog", why=f"PostgreSQL runs, but refuses us: {error}") from error
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except asyncpg.DuplicateDatabaseError:
            pass  # somebody who adopts the same server was faster
        finally:
            await connection.close()

    # ------------------------------------------------------------------ start

    def _start(self) -> Path:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self._lock():
            binaries = binaries_for(find_binaries(self._binaries_setting), self._account)
            if not self._cluster.exists():
                self._cluster.initialise(binaries)
            self._cluster.check_version(binaries)
            if (socket_dir := self._await_ready()) is not None:
                return socket_dir
            socket_dir = self._make_socket_dir()
            self._forget_foreign_process()
            self._launch(binaries, socket_dir)
            return socket_dir

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Two that start at once: the second waits, then finds the server of the first."""
        with (self.data_dir / "postgresql.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _launch(self, binaries: Path, socket_dir: Path) -> None:
        settings = _COMMAND_LINE | {"unix_socket_directories": str(socket_dir)}
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        give_up_at = time.monotonic() + START_RETRY_SECONDS
        while True:
            result = self._pg_ctl(
                binaries, "start", f"--log={self._cluster.path / 'start.log'}", f"--options={options}",
                seconds_max=START_SECONDS_MAX,
            )  # fmt: skip
            if result.returncode == 0:
                log.info("database started", cluster=str(self._cluster.path))
                return
            if time.monotonic() > give_up_at:
                why = f"PostgreSQL does not start: {main_output(result)} {self._end_of_log()}"
                raise CatalogUnreachable(what="catalog", why=why)
            time.sleep(0.25)

    def _make_socket_dir(self) -> Path:
        """Beside the cluster where the path is short and plain enough, else in the system's temporary directory."""
        beside = self._cluster.path.with_name("postgresql.socket")
        used_before = Path((self._pid_file_lines() + [""] * 5)[4] or "/")
        if _fits_socket(beside):
            beside.mkdir(mode=0o700, exist_ok=True)
            beside.chmod(0o700)
            self._cluster.give_to_account(beside)
            return beside
        if self._is_ours_alone(used_before):
            return used_before  # a killed server left it
        temporary = Path(tempfile.mkdtemp(prefix="capstan-", dir="/tmp"))
        self._cluster.give_to_account(temporary)
        return temporary

    def _remove_socket_dir(self, directory: Path) -> None:
        # Only what we made: an operator who started the server by hand may have named any directory.
        if self._is_ours_alone(directory) and directory.name.startswith(_SOCKET_DIR_PREFIXES):
            for leftover in directory.glob(f"{_SOCKET_NAME}*"):
                leftover.unlink(missing_ok=True)
            with suppress(OSError):
                directory.rmdir()

    def _is_ours_alone(self, directory: Path) -> bool:
        owner = os.geteuid() if self._account is None else self._account.uid
        try:
            status = directory.lstat()
        except OSError:
            return False
        return status.st_uid == owner and status.st_mode == stat.S_IFDIR | 0o700

    # ------------------------------------------------------------------ what runs already

    def _pid_file_lines(self) -> list[str]:
        # Line 1 is the process id, 5 the socket directory, 8 the status.
        try:
            return (self._cluster.path / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _process(self) -> int | None:
        """The postmaster of this cluster; a process id that another program got meanwhile does not count."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        process = int(lines[0])
        try:
            if Path(f"/proc/{process}/cwd").resolve(strict=True) == self._cluster.path.resolve():
                return process
        except OSError:
            pass
        return None

    def _running(self) -> Path | None:
        """The socket directory of the server that runs and is ready."""
        lines = self._pid_file_lines()
        if len(lines) < 8 or lines[7].strip() != "ready" or self._process() is None:
            return None
        return Path(lines[4])

    def _await_ready(self) -> Path | None:
        """The socket directory of a server that somebody started before, once it is ready; None when there is none."""
        give_up_at = time.monotonic() + START_SECONDS_MAX
        while self._process() is not None and time.monotonic() < give_up_at:
            if (socket_dir := self._running()) is not None:
                log.info("database adopted", cluster=str(self._cluster.path), process=self._process())
                return socket_dir
            time.sleep(0.05)
        return None

    def _forget_foreign_process(self) -> None:
        # PostgreSQL takes any living process of the same user for a postmaster: after a reboot that may be anything.
        # Its own check of the shared memory still guards against children of a killed one.
        lines = self._pid_file_lines()
        if lines and lines[0].strip().isdigit() and Path(f"/proc/{lines[0].strip()}").exists() and not self._process():
            (self._cluster.path / "postmaster.pid").unlink()

    # ------------------------------------------------------------------ stop

    def _stop(self) -> None:
        if not self.data_dir.exists() or self._process() is None:
            return
        with self._lock():
            lines = self._pid_file_lines()
            if self._process() is None or len(lines) < 5:
                return
            binaries = binaries_for(find_binaries(self._binaries_setting), self._account)
            for mode in ("fast", "immediate"):
                result = self._pg_ctl(binaries, "stop", f"--mode={mode}", seconds_max=STOP_SECONDS_MAX)
                if result.returncode == 0 or self._process() is None:
                    break
            else:
                raise CatalogUnreachable(what="catalog", why=f"PostgreSQL does not stop: {main_output(result)}")
            log.info("database stopped", cluster=str(self._cluster.path), mode=mode)
            self._remove_socket_dir(Path(lines[4]))

    def _remove(self) -> None:
        self._stop()
        if len(left := self._pid_file_lines()) >= 5:
            self._remove_socket_dir(Path(left[4]))  # of a server that was killed
        self._cluster.remove()
        (self.data_dir / "postgresql.lock").unlink(missing_ok=True)

    def _pg_ctl(
        self, binaries: Path, action: str, *arguments: str, seconds_max: int
    ) -> subprocess.CompletedProcess[str]:
        return run_program(
            self._account, str(binaries / "pg_ctl"), action, "--wait", f"--timeout={seconds_max}", "--silent",
            f"--pgdata={self._cluster.path}", *arguments, timeout_seconds=seconds_max + 10.0,
        )  # fmt: skip

    def _end_of_log(self) -> str:
        logs = [self._cluster.path / "start.log", *(self._cluster.path / "log").glob("*.log")]
        newest = max((path for path in logs if path.exists()), key=lambda path: path.stat().st_mtime, default=None)
        return "" if newest is None else " ".join(newest.read_text(errors="replace").splitlines()[-5:])


def _fits_socket(directory: Path) -> bool:
    length = len(os.fsencode(directory / _SOCKET_NAME))
    return length <= _SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(str(directory)) is not None

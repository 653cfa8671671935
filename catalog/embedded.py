"""A PostgreSQL server of Capstan's own inside a data directory: found, initialised, started, adopted, stopped.

It listens on a unix socket in a directory that only its owner may enter, never on TCP. It runs detached from whoever
started it and ends only by `stop`. As root the server runs as `nobody` (PostgreSQL refuses root); where `nobody`
cannot reach the data directory or the binaries, both go below /var/lib/capstan. It creates no tables; see
catalog.migrate for that.

    DATA/postgresql            the cluster, or
    DATA/postgresql.id         ID of the cluster in /var/lib/capstan/ID/postgresql
    DATA/postgresql.password   of the role `capstan`, mode 0600, written before the cluster exists
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import shlex
import shutil
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
from catalog.postgresql_binaries import (
    SHARED_ROOT,
    binaries_for,
    find_binaries,
    major_version,
    make_reachable,
    server_account,
)

log = structlog.get_logger(__name__)

ROLE = DATABASE = "capstan"
#: after kill -9 of the postmaster its children hold the shared memory for some seconds, and a start fails meanwhile
START_RETRY_SECONDS = 30.0
#: a start that replays much log may take this long before it is given up
START_SECONDS_MAX = 300
#: a fast stop that hangs this long is followed by an immediate one; nothing committed is lost by that
STOP_SECONDS_MAX = 30
INITDB_SECONDS_MAX = 120.0
_SOCKET_NAME = ".s.PGSQL.5432"
#: of a socket directory that needs no quoting in a URL, a shell or a list of PostgreSQL's
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
#: sun_path holds 108 bytes, the last of them zero
_SOCKET_PATH_BYTES_MAX = 107

# Written once, at the end of postgresql.conf: an operator may change them there.
_SETTINGS = """
# Capstan's settings
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
wal_compression = on
checkpoint_timeout = 10min
random_page_cost = 1.5
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_line_prefix = '%m [%p] %a: '
"""
# Not for changing: what Capstan promises rests on the first two, who may connect on the others.
_COMMAND_LINE = {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "unix_socket_permissions": "0700"}


class EmbeddedPostgres:
    """The server of one data directory.

    `await start()` gives the URL for `catalog.database.Database`. Everything is safe to repeat, and safe to begin
    again after a kill at any point.
    """

    def __init__(self, data_dir: Path, *, binaries: Path | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self._binaries_setting = binaries
        self._account = server_account()

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
        socket_dir = await asyncio.to_thread(self._start)
        await self._ensure_database(socket_dir)
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

    # ------------------------------------------------------------------ where things are

    @property
    def cluster(self) -> Path:
        """The directory that PostgreSQL calls its data directory; it may not exist yet."""
        return self._shared_cluster(self._id_file) if self._id_file.exists() else self.data_dir / "postgresql"

    @property
    def _id_file(self) -> Path:
        return self.data_dir / "postgresql.id"

    @property
    def _unfinished_id_file(self) -> Path:
        return self.data_dir / "postgresql.id.new"

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "postgresql.password"

    @staticmethod
    def _shared_cluster(id_file: Path) -> Path:
        return SHARED_ROOT / id_file.read_text().strip() / "postgresql"

    def _url(self, socket_dir: Path, database: str) -> str:
        password = self._password_file.read_text().strip()
        return f"postgresql+asyncpg://{ROLE}:{password}@/{database}?host={quote(str(socket_dir))}"

    async def _connect(self, socket_dir: Path, database: str) -> asyncpg.Connection[asyncpg.Record]:
        password = self._password_file.read_text().strip()
        return await asyncpg.connect(host=str(socket_dir), user=ROLE, password=password, database=database, timeout=10)

    async def _ensure_database(self, socket_dir: Path) -> None:
        connection = await self._connect(socket_dir, "postgres")
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
            if not self._cluster_exists():
                self._initialise(binaries)
            self._check_version(binaries)
            if (socket_dir := self._await_ready()) is not None:
                return socket_dir
            self._forget_foreign_process()
            socket_dir = self._make_socket_dir()
            self._launch(binaries, socket_dir)
            return socket_dir

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Two that start at once: the second waits, then finds the server of the first."""
        with (self.data_dir / "postgresql.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _cluster_exists(self) -> bool:
        if self._id_file.exists() and not self.cluster.exists():
            # Initialising a new one here would hide that every file in the catalog is unknown from now on.
            raise FileNotFoundError(f"{self._id_file} names {self.cluster}, which is gone: restore it from a backup")
        return self.cluster.exists()

    def _initialise(self, binaries: Path) -> None:
        """A cluster appears under its name by a rename, complete: what a killed run left is thrown away first."""
        if not self._password_file.exists():
            _write_private(self._password_file, secrets.token_urlsafe(32))
        if self._unfinished_id_file.exists():
            _delete(self._shared_cluster(self._unfinished_id_file).parent)
            self._unfinished_id_file.unlink()
        if self._belongs_in_shared_root(binaries):
            identity = secrets.token_hex(8)
            _write_private(self._unfinished_id_file, identity)
            make_reachable(SHARED_ROOT / identity)
            self._initdb(binaries, SHARED_ROOT / identity / "postgresql")
            self._unfinished_id_file.rename(self._id_file)
        else:
            self._initdb(binaries, self.data_dir / "postgresql")
        _fsync_directory(self.data_dir)
        log.info("database initialised", cluster=str(self.cluster))

    def _belongs_in_shared_root(self, binaries: Path) -> bool:
        if self._account is None:
            return False
        return binaries.is_relative_to(SHARED_ROOT) or not self._account.may_enter(self.data_dir)

    def _initdb(self, binaries: Path, cluster: Path) -> None:
        unfinished, password_copy = cluster.with_name("postgresql.new"), cluster.with_name("postgresql.new.password")
        _delete(unfinished)
        unfinished.mkdir(mode=0o700)
        _write_private(password_copy, self._password_file.read_text().strip())
        self._give_to_account(unfinished, password_copy)
        arguments = [
            f"--pgdata={unfinished}", f"--username={ROLE}", f"--pwfile={password_copy}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions",
        ]  # fmt: skip
        if major_version(binaries) >= 17:
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        result = self._run(binaries / "initdb", *arguments, timeout_seconds=INITDB_SECONDS_MAX)
        password_copy.unlink()
        if result.returncode != 0:
            raise CatalogUnreachable(what="catalog", why=f"initdb failed: {_output(result)}")
        with (unfinished / "postgresql.conf").open("a") as handle:
            handle.write(_SETTINGS)
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.rename(cluster)
        _fsync_directory(cluster.parent)

    def _check_version(self, binaries: Path) -> None:
        of_cluster, of_binaries = (self.cluster / "PG_VERSION").read_text().strip(), major_version(binaries)
        if of_cluster != str(of_binaries):
            why = f"{self.cluster} is of PostgreSQL {of_cluster}, but {binaries} is {of_binaries}; dump and restore it"
            raise CatalogUnreachable(what="catalog", why=why)

    def _launch(self, binaries: Path, socket_dir: Path) -> None:
        settings = _COMMAND_LINE | {"unix_socket_directories": str(socket_dir)}
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        give_up_at = time.monotonic() + START_RETRY_SECONDS
        while True:
            result = self._run(
                binaries / "pg_ctl", "start", "--wait", f"--timeout={START_SECONDS_MAX}", "--silent",
                f"--pgdata={self.cluster}", f"--log={self.cluster / 'start.log'}", f"--options={options}",
                timeout_seconds=START_SECONDS_MAX + 10.0,
            )  # fmt: skip
            if result.returncode == 0:
                log.info("database started", cluster=str(self.cluster))
                return
            if time.monotonic() > give_up_at:
                why = f"PostgreSQL does not start: {_output(result)} {self._end_of_log()}"
                raise CatalogUnreachable(what="catalog", why=why)
            time.sleep(0.25)

    def _make_socket_dir(self) -> Path:
        """Beside the cluster where the path is short and plain enough, else in the system's temporary directory."""
        beside = self.cluster.with_name("postgresql.socket")
        used_before = Path((self._pid_file_lines() + [""] * 5)[4] or "/")
        if _fits_socket(beside):
            beside.mkdir(mode=0o700, exist_ok=True)
            beside.chmod(0o700)
            self._give_to_account(beside)
            return beside
        if self._is_ours_alone(used_before):
            return used_before  # a killed server left it
        temporary = Path(tempfile.mkdtemp(prefix="capstan-", dir="/tmp"))
        self._give_to_account(temporary)
        return temporary

    def _is_ours_alone(self, directory: Path) -> bool:
        owner = os.geteuid() if self._account is None else self._account.uid
        try:
            status = directory.lstat()
        except OSError:
            return False
        return status.st_uid == owner and status.st_mode == stat.S_IFDIR | 0o700

    def _give_to_account(self, *paths: Path) -> None:
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.uid, self._account.gid)

    # ------------------------------------------------------------------ what runs already

    def _pid_file_lines(self) -> list[str]:
        # Line 1 is the process id, 5 the socket directory, 8 the status.
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _process(self) -> int | None:
        """The postmaster of this cluster; a process id that another program got meanwhile does not count."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        process = int(lines[0])
        try:
            if Path(f"/proc/{process}/cwd").resolve(strict=True) == self.cluster.resolve():
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
                log.info("database adopted", cluster=str(self.cluster), process=self._process())
                return socket_dir
            time.sleep(0.05)
        return None

    def _forget_foreign_process(self) -> None:
        # PostgreSQL takes any living process of the same user for a postmaster: after a reboot that may be anything.
        # Its own check of the shared memory still guards against children of a killed one.
        lines = self._pid_file_lines()
        if lines and lines[0].strip().isdigit() and Path(f"/proc/{lines[0].strip()}").exists() and not self._process():
            (self.cluster / "postmaster.pid").unlink()

    # ------------------------------------------------------------------ stop

    def _stop(self) -> None:
        if not self.data_dir.exists() or self._process() is None:
            return
        with self._lock():
            lines = self._pid_file_lines()
            if self._process() is None:
                return
            binaries = binaries_for(find_binaries(self._binaries_setting), self._account)
            for mode in ("fast", "immediate"):
                result = self._run(
                    binaries / "pg_ctl", "stop", "--wait", f"--timeout={STOP_SECONDS_MAX}", "--silent",
                    f"--mode={mode}", f"--pgdata={self.cluster}", timeout_seconds=STOP_SECONDS_MAX + 10.0,
                )  # fmt: skip
                if result.returncode == 0 or self._process() is None:
                    break
            else:
                raise CatalogUnreachable(what="catalog", why=f"PostgreSQL does not stop: {_output(result)}")
            log.info("database stopped", cluster=str(self.cluster), mode=mode)
            if len(lines) >= 5 and lines[4]:
                _delete(Path(lines[4]))

    def _remove(self) -> None:
        self._stop()
        if self._id_file.exists():
            _delete(self.cluster.parent)
        else:
            _delete(self.cluster)
        for name in ("postgresql.id", "postgresql.id.new", "postgresql.password", "postgresql.lock"):
            (self.data_dir / name).unlink(missing_ok=True)

    # ------------------------------------------------------------------ running its programs

    def _run(self, program: Path, *arguments: str, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        account = self._account
        return subprocess.run(
            [str(program), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_seconds,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            # A session of its own: a SIGINT from the terminal must not reach the server.
            start_new_session=True,
            umask=0o077,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )

    def _end_of_log(self) -> str:
        logs = [self.cluster / "start.log", *(self.cluster / "log").glob("*.log")]
        newest = max((path for path in logs if path.exists()), key=lambda path: path.stat().st_mtime, default=None)
        return "" if newest is None else " ".join(newest.read_text(errors="replace").splitlines()[-5:])


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(f"{text}\n")
        handle.flush()
        os.fsync(handle.fileno())
    unfinished.rename(path)
    _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fits_socket(directory: Path) -> bool:
    length = len(os.fsencode(directory / _SOCKET_NAME))
    return length <= _SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(str(directory)) is not None


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _output(result: subprocess.CompletedProcess[str]) -> str:
    return " ".join((result.stderr or result.stdout).split())[-2000:]

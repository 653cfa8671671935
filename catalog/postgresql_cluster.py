"""The files of one PostgreSQL cluster: where they lie, how they come to be, whole or not at all. Runs no server.

DATA/postgresql            the cluster, or
DATA/postgresql.id         ID of the cluster in /var/lib/capstan/ID/postgresql
DATA/postgresql.password   of the role `capstan`, mode 0600, written before the cluster exists
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import structlog

from catalog.durable import sync_path
from catalog.errors import CatalogUnreachable
from catalog.postgresql_binaries import SHARED_ROOT, Account, main_output, major_version, make_reachable, run_program

log = structlog.get_logger(__name__)

ROLE = "capstan"
INITDB_SECONDS_MAX = 120.0

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


class Cluster:
    """The cluster of one data directory, owned by `account` (None: by ourselves). Blocking calls."""

    def __init__(self, data_dir: Path, account: Account | None) -> None:
        self._data_dir = data_dir
        self._account = account
        self._password_file = data_dir / "postgresql.password"
        self._id_file = data_dir / "postgresql.id"
        self._unfinished_id_file = data_dir / "postgresql.id.new"

    @property
    def path(self) -> Path:
        """The directory that PostgreSQL calls its data directory; it may not exist yet."""
        return _shared_path(self._id_file) if self._id_file.exists() else self._data_dir / "postgresql"

    @property
    def password(self) -> str:
        return self._password_file.read_text().strip()

    def exists(self) -> bool:
        """Whether it was initialised. Raises FileNotFoundError for one that was, and is gone."""
        if self._id_file.exists() and not self.path.exists():
            # Initialising a new one here would hide that every file in the catalog is unknown from now on.
            raise FileNotFoundError(f"{self._id_file} names {self.path}, which is gone: restore it from a backup")
        return self.path.exists()

    def initialise(self, binaries: Path) -> None:
        """Make it. It appears under its name by a rename, complete: what a killed run left is thrown away first."""
        if not self._password_file.exists():
            _write_private(self._password_file, secrets.token_urlsafe(32))
        if self._unfinished_id_file.exists():
            delete(_shared_path(self._unfinished_id_file).parent)
            self._unfinished_id_file.unlink()
        if self._belongs_in_shared_root(binaries):
            identity = secrets.token_hex(8)
            _write_private(self._unfinished_id_file, identity)
            make_reachable(SHARED_ROOT / identity)
            self._initdb(binaries, SHARED_ROOT / identity / "postgresql")
            self._unfinished_id_file.rename(self._id_file)
        else:
            self._initdb(binaries, self._data_dir / "postgresql")
        sync_path(self._data_dir)
        log.info("database initialised", cluster=str(self.path))

    def check_version(self, binaries: Path) -> None:
        """Raises CatalogUnreachable when these programs are of another major version than the cluster."""
        of_cluster, of_binaries = (self.path / "PG_VERSION").read_text().strip(), major_version(binaries)
        if of_cluster != str(of_binaries):
            why = f"{self.path} is of PostgreSQL {of_cluster}, but {binaries} is {of_binaries}; dump and restore it"
            raise CatalogUnreachable(what="catalog", why=why)

    def remove(self) -> None:
        """Delete it and every trace of it in the data directory. No server may run from it."""
        delete(self.path.parent if self._id_file.exists() else self.path)
        for file in (self._id_file, self._unfinished_id_file, self._password_file):
            file.unlink(missing_ok=True)

    def give_to_account(self, *paths: Path) -> None:
        """Make the server's account the owner, where it is not ourselves."""
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.uid, self._account.gid)

    def _belongs_in_shared_root(self, binaries: Path) -> bool:
        if self._account is None:
            return False
        return binaries.is_relative_to(SHARED_ROOT) or not self._account.may_enter(self._data_dir)

    def _initdb(self, binaries: Path, cluster: Path) -> None:
        unfinished, password_copy = cluster.with_name("postgresql.new"), cluster.with_name("postgresql.new.password")
        delete(unfinished)
        unfinished.mkdir(mode=0o700)
        _write_private(password_copy, self.password)
        self.give_to_account(unfinished, password_copy)
        arguments = [
            f"--pgdata={unfinished}", f"--username={ROLE}", f"--pwfile={password_copy}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions",
        ]  # fmt: skip
        if major_version(binaries) >= 17:
            arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        result = run_program(self._account, str(binaries / "initdb"), *arguments, timeout_seconds=INITDB_SECONDS_MAX)
        password_copy.unlink()
        if result.returncode != 0:
            raise CatalogUnreachable(what="catalog", why=f"initdb failed: {main_output(result)}")
        with (unfinished / "postgresql.conf").open("a") as handle:
            handle.write(_SETTINGS)
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.rename(cluster)
        sync_path(cluster.parent)


def delete(path: Path) -> None:
    """Delete a directory with all that is in it; nothing to do when it is not there."""
    if path.exists():
        shutil.rmtree(path)


def _shared_path(id_file: Path) -> Path:
    return SHARED_ROOT / id_file.read_text().strip() / "postgresql"


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(f"{text}\n")
        handle.flush()
        os.fsync(handle.fileno())
    unfinished.rename(path)
    sync_path(path.parent)

"""What `capstan up` fills into a configuration: addresses, directories, sizes of this machine. Pure but for free space.

A value that the file sets stays; what it leaves at the default of the process's own Config is taken as unset.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import msgspec

from capstan.config import Configuration
from capstan.first_start import Tokens
from catalog.units import GB
from client.serving import url_at

CACHE_BYTES_MAX = 20 * GB


def filled_in(
    configuration: Configuration, data: Path, host: str, port: int, database_url: str, tokens: Tokens
) -> Configuration:
    """The effective configuration of the three servers; only the door takes `port`, the others free ones."""
    replace = msgspec.structs.replace
    tapeserver = replace(
        configuration.tapeserver,
        name=configuration.tapeserver.name or "tapeserver",
        host=host,
        port=port,
        database_url=database_url,
        site_name=configuration.site.name,
        journal_dir=str(journal_directory(configuration, data)),
        backup_dir=str(backup_directory(configuration, data)),
        postgresql_binaries=configuration.tapeserver.postgresql_binaries or configuration.database.binaries,
    )
    root = configuration.cacheserver.root
    capacity = configuration.cacheserver.capacity_bytes
    cacheserver = replace(
        configuration.cacheserver,
        name=configuration.cacheserver.name or "cache",
        database_url=database_url,
        root=str(root) if root and str(root) != "." else str(data / "cache"),
        capacity_bytes=capacity or min(CACHE_BYTES_MAX, shutil.disk_usage(data).free // 2),
    )
    jobserver = replace(
        configuration.jobserver,
        name=configuration.jobserver.name or "jobserver",
        database_url=database_url,
        door_urls=[url_at(host, port)],
        token_file=tokens.jobserver_file,
        data_dir=data / "jobs",
        slots=configuration.jobserver.slots or os.cpu_count() or 1,
        capstan_bin=str(Path(sys.executable).parent),
    )
    return replace(configuration, tapeserver=tapeserver, cacheserver=cacheserver, jobserver=jobserver)


def journal_directory(configuration: Configuration, data: Path | None) -> Path | None:
    """As it is set, else in the data directory; None without either."""
    return _directory(configuration.tapeserver.journal_dir, data, "journal")


def backup_directory(configuration: Configuration, data: Path | None) -> Path | None:
    return _directory(configuration.tapeserver.backup_dir, data, "backups")


def _directory(setting: str, data: Path | None, name: str) -> Path | None:
    if setting:
        return Path(setting).expanduser().absolute()
    return None if data is None else data / name

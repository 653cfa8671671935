"""`capstan up`: every process of one machine, from nothing to serving, until SIGINT or SIGTERM.

    database -> first start (libraries, labels, tokens) -> cache server -> tape server (the door) -> job server

A child that ends is started again; the database server too. Stopping goes the other way, within seconds; job runners
are no children of anything here and go on.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import structlog

from capstan.config import Configuration, encoded, read_configuration
from capstan.first_start import Tokens, prepare_catalog
from capstan.local_defaults import filled_in
from capstan.supervisor import Child, capstan_command
from catalog.embedded import EmbeddedPostgres
from catalog.errors import CapstanError, Unavailable
from client import recorded
from client.serving import url_at

log = structlog.get_logger()

#: how often the embedded database server is looked at
DATABASE_CHECK_SECONDS = 0.5
SERVING_SECONDS_MAX = 60.0
#: the servers of a `capstan up` that was killed end by themselves; its successor waits so long for their port
PREDECESSOR_SECONDS_MAX = 15.0
PREDECESSOR_POLL_SECONDS = 0.1


async def up(data: Path, *, host: str, port: int, config_path: Path | None, say: Callable[[str], None]) -> None:
    """Run until asked to stop. `say` gets the lines for the person who started it. Raises CapstanError."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A script's background job inherits SIGINT as ignored; a handler of the loop hears it all the same.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not data.exists():
        # Before anything is made; where there is a site already, that it runs is the better answer.
        _door_port(host, port)
    data.mkdir(parents=True, exist_ok=True)
    with only_one(data):
        port = await door_port(data, host, port, stop)
        configuration = read_configuration(config_path or recorded_configuration(data))
        async with _database(data, configuration) as database_url:
            tokens = await prepare_catalog(database_url, configuration, data, say=say)
            configuration = filled_in(configuration, data, host, port, database_url, tokens)
            await _serve(configuration, data, stop, tokens, say)
            say("stopping")


async def door_port(data: Path, host: str, port: int, stop: asyncio.Event) -> int:
    """As `_door_port`; the port that the site had before is waited for, while the servers of one killed still end."""
    give_up_at = asyncio.get_running_loop().time() + PREDECESSOR_SECONDS_MAX
    while True:
        try:
            return _door_port(host, port)
        except Unavailable:
            late = asyncio.get_running_loop().time() > give_up_at
            if late or stop.is_set() or port != _port_before(data):
                raise
        await asyncio.sleep(PREDECESSOR_POLL_SECONDS)


def _port_before(data: Path) -> int | None:
    path = _of_the_servers(data)
    try:
        return read_configuration(path).tapeserver.port if path.exists() else None
    except (CapstanError, OSError):
        # Of another version, say: it is written anew, and nothing else depends on it.
        return None


def _door_port(host: str, port: int) -> int:
    """`port`, or a free one for 0: the job server and the record need it before the door has it. Raises Unavailable."""
    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as exc:
        raise Unavailable(what=f"the address {host}:{port}", why=f"{exc.strerror}; choose another --port") from exc


def _of_the_servers(data: Path) -> Path:
    """The effective configuration, as the servers of the last start read it."""
    return data / "run" / "configuration.json"


def recorded_configuration(data: Path) -> Path | None:
    """The file that a data directory carries, if any."""
    path = data / "capstan.toml"
    return path if path.exists() else None


@contextmanager
def only_one(data: Path) -> Iterator[IO[str]]:
    """The data directory is ours meanwhile. Raises Unavailable when `capstan up`, or another command, has it."""
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Unavailable(what=f"the data directory {data}", why="another `capstan up` runs on it") from exc
        yield lock


@asynccontextmanager
async def _database(data: Path, configuration: Configuration) -> AsyncIterator[str]:
    """The URL of the site's database, or of our own server, which is kept running meanwhile."""
    if configuration.database.url:
        yield configuration.database.url
        return
    binaries = Path(configuration.database.binaries) if configuration.database.binaries else None
    postgres = EmbeddedPostgres(data, binaries=binaries)
    url = await postgres.start()
    keeper = asyncio.create_task(_keep_running(postgres), name="keep-postgresql")
    try:
        yield url
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await postgres.stop()


async def _keep_running(postgres: EmbeddedPostgres) -> None:
    while True:
        await asyncio.sleep(DATABASE_CHECK_SECONDS)
        try:
            if await postgres.is_running():
                continue
            log.warning("the database server is gone, starting it again")
            await postgres.start()
        except Exception:
            # Whatever it is (pg_ctl that takes too long, say): without this loop there would never be a database again.
            log.exception("the database server does not start")


async def _serve(
    configuration: Configuration, data: Path, stop: asyncio.Event, tokens: Tokens, say: Callable[[str], None]
) -> None:
    path = _of_the_servers(data)
    _write_private(path, encoded(configuration))
    children = {
        kind: Child(name=kind, command=capstan_command(kind, f"--config={path}"), log_path=data / "log" / f"{kind}.log")
        for kind in ("cacheserver", "tapeserver", "jobserver")
    }
    tasks = [asyncio.create_task(child.run(), name=f"run-{child.name}") for child in children.values()]
    try:
        served = await _until(stop, asyncio.gather(*(child.serving.wait() for child in children.values())))
        if not stop.is_set():
            if not served:
                missing = [child.name for child in children.values() if not child.serving.is_set()]
                raise Unavailable(what=", ".join(missing), why=f"it does not begin to serve; see {data / 'log'}")
            url = url_at(configuration.tapeserver.host, children["tapeserver"].port)
            recorded.write(recorded.Recorded(url=url, token=tokens.operator))
            say(f"Capstan serves at {url}")
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(stop: asyncio.Event, serving: asyncio.Future[Any]) -> bool:
    """Whether everything serves, once it does, or when it took too long or `stop` came first."""
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopped], timeout=SERVING_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
    served = serving.done()
    serving.cancel()
    stopped.cancel()
    await asyncio.gather(serving, stopped, return_exceptions=True)
    return served


def _write_private(path: Path, content: bytes) -> None:
    """It holds the database's password: for the owner alone, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)

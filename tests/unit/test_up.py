"""`capstan up` after one that was killed has its port back as soon as the servers of that one are gone; and it goes on
starting its database server, whatever became of an earlier start."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from capstan import up
from capstan.config import Configuration, encoded
from capstan.up import door_port
from catalog.errors import Unavailable


def _served_before(data: Path, port: int) -> None:
    plain = Configuration()
    was = msgspec.structs.replace(plain, tapeserver=msgspec.structs.replace(plain.tapeserver, port=port))
    (data / "run").mkdir()
    (data / "run" / "configuration.json").write_bytes(encoded(was))


async def test_the_port_that_the_servers_of_a_killed_one_still_hold_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        _served_before(tmp_path, port)
        starting = asyncio.create_task(door_port(tmp_path, "127.0.0.1", port, asyncio.Event()))
        await asyncio.sleep(0)
        assert not starting.done()
    assert await asyncio.wait_for(starting, 10.0) == port


async def test_who_is_asked_to_stop_meanwhile_waits_no_longer(tmp_path: Path) -> None:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        _served_before(tmp_path, port)
        starting = asyncio.create_task(door_port(tmp_path, "127.0.0.1", port, stop))
        await asyncio.sleep(0)
        stop.set()
        with pytest.raises(Unavailable, match="choose another --port"):
            await asyncio.wait_for(starting, 10.0)


async def test_a_port_of_somebody_else_is_refused_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        _served_before(tmp_path, port + 1 if port < 65535 else port - 1)
        with pytest.raises(Unavailable, match="choose another --port"):
            await asyncio.wait_for(door_port(tmp_path, "127.0.0.1", port, asyncio.Event()), 10.0)


class _Postgres:
    """Of which nothing runs, and whose first start takes too long."""

    def __init__(self) -> None:
        self.starts = 0
        self.again = asyncio.Event()

    async def is_running(self) -> bool:
        return False

    async def start(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise subprocess.TimeoutExpired("pg_ctl", 310.0)
        self.again.set()


async def test_a_database_server_whose_start_takes_too_long_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "DATABASE_CHECK_SECONDS", 0.01)
    postgres = _Postgres()
    keeper = asyncio.create_task(up._keep_running(postgres))  # type: ignore[arg-type]  # what of it is used
    try:
        await asyncio.wait_for(postgres.again.wait(), 10.0)
    finally:
        keeper.cancel()

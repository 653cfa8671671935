"""Promises of a connection that is taken over from HTTP, on both event loops that servers run on."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Callable

import pytest
import uvloop
from aiohttp import web

from client.takeover import PROTOCOL, nothing_more, taken_over

HEAD = f"POST /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n".encode()


async def echo(request: web.Request) -> web.StreamResponse:
    async with taken_over(request, idle_seconds_max=5) as channel:

        def work() -> None:
            buffer = bytearray(1 << 16)
            while length := channel.receive_into(buffer):
                channel.send([memoryview(buffer)[:length]])

        await asyncio.to_thread(work)
    return nothing_more()


def talk(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(HEAD)
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        assert response.status == 101
        data = bytes(range(256)) * 4096
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while part := connection.recv(1 << 16):
            received += part
        assert received == data
        return bytes(received)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_bytes_pass_both_ways_behind_the_101(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scene() -> None:
        app = web.Application()
        app.router.add_post("/x", echo)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(10):
            await asyncio.gather(*(asyncio.to_thread(talk, runner.addresses[0][1]) for _ in range(3)))
        await runner.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scene())

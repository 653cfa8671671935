"""Promises of client.serving: what every server of Capstan answers when something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from catalog.errors import NotFound, TooBusy, Unauthenticated
from client.messages import OurRequest
from client.serving import (
    Listener,
    configure_logging,
    expect_after,
    json_body,
    listen,
    problem_middleware,
    url_at,
)


class Body(OurRequest):
    name: str


async def _not_found(_: web.Request) -> web.Response:
    raise NotFound(what="/exp/f")


async def _busy(_: web.Request) -> web.Response:
    raise TooBusy(what="the door", limit=3, retry_after_seconds=7)


async def _broken(_: web.Request) -> web.Response:
    raise RuntimeError("select secret from token")


async def _half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"half")
    raise RuntimeError("the disk broke")


async def _json(request: web.Request) -> web.Response:
    return web.Response(text=(await json_body(request, Body, limit_bytes=100)).name)


async def _admit(request: web.Request) -> web.Response | None:
    if request.headers.get("Authorization") is None:
        raise Unauthenticated(why="there is none")
    return web.Response(status=307, headers={"Location": "/x"}) if "to" in request.query else None


async def _put(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application(middlewares=[problem_middleware])
    for path, handler in (("/missing", _not_found), ("/busy", _busy), ("/broken", _broken), ("/half", _half)):
        app.router.add_get(path, handler)
    app.router.add_post("/json", _json)
    app.router.add_put("/put", _put, expect_handler=expect_after(_admit))
    listener: Listener = await listen(app)
    yield f"http://127.0.0.1:{listener.port}"
    await listener.close()


async def _problem(url: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, Any], Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        assert answer.content_type == "application/problem+json"
        return answer.status, await answer.json(content_type=None), answer.headers


async def test_an_error_is_a_problem_document_with_its_code(url: str) -> None:
    status, document, _ = await _problem(f"{url}/missing")
    assert (status, document["status"], document["code"]) == (404, 404, "not_found")
    assert document["detail"] == "/exp/f does not exist."


async def test_an_error_that_passes_says_when_to_try_again(url: str) -> None:
    status, document, headers = await _problem(f"{url}/busy")
    assert (status, document["code"], headers["Retry-After"]) == (429, "too_busy", "7")


async def test_an_unexpected_error_tells_the_client_nothing_of_the_inside(url: str) -> None:
    status, document, _ = await _problem(f"{url}/broken")
    assert (status, document["code"]) == (500, "internal")
    assert "secret" not in str(document)


async def test_unknown_routes_and_methods_are_problem_documents_too(url: str) -> None:
    status, document, _ = await _problem(f"{url}/nowhere")
    assert (status, document["code"]) == (404, "not_found")
    status, document, _ = await _problem(f"{url}/missing", "DELETE")
    assert (status, document["code"]) == (405, "method_not_allowed")


async def test_a_response_that_broke_in_the_middle_is_cut_and_never_looks_whole(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/half") as answer:
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b'{"name": 1}', 400, "bad_json"),
        (b'{"name": "a", "nmae": 2}', 400, "bad_json"),
        (b'{"name": "\xff"}', 400, "bad_json"),
        (b'{"name": "' + b"a" * 200 + b'"}', 413, "too_large"),
    ],
)
async def test_a_bad_body_is_refused_with_its_code(url: str, body: bytes, status: int, code: str) -> None:
    answered, document, _ = await _problem(f"{url}/json", "POST", data=body)
    assert (answered, document["code"]) == (status, code)


async def test_a_body_that_hides_its_length_is_limited_all_the_same(url: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 10

    status, document, _ = await _problem(f"{url}/json", "POST", data=endless())
    assert (status, document["code"]) == (413, "too_large")


async def _raw_put(url: str, headers: str) -> bytes:
    """What the server says before it has seen a byte of the body."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"PUT /put{headers}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
    first = await reader.readline()
    writer.close()
    return first


async def test_a_put_is_refused_before_its_body(url: str) -> None:
    assert b" 401 " in await _raw_put(url, " HTTP/1.1\r\nHost: x")


async def test_a_put_is_redirected_before_its_body(url: str) -> None:
    assert b" 307 " in await _raw_put(url, "?to=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x")


async def test_a_put_that_is_admitted_is_asked_for_its_body(url: str) -> None:
    assert b" 100 " in await _raw_put(url, " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x")
    headers = {"Authorization": "Bearer x"}
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{url}/put", data=b"four", expect100=True, headers=headers) as answer,
    ):
        assert await answer.text() == "4"


def test_an_unknown_log_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging(level="loud")


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("tape", "http://tape:80")]
)
def test_the_url_of_any_address_can_be_asked(host: str, url: str) -> None:
    assert url_at(host, 80) == url
    assert urlsplit(url_at(host, 80)).hostname == host

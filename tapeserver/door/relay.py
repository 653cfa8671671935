"""Passing requests on: bodies through the door in bounded pieces, answers back as they are.

What may be passed on, and to whom, the callers decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

from catalog.errors import ShortBody, TimedOut, Unavailable
from tapeserver.door.context import DoorContext

#: of an answer to a PUT, which is a small document
ANSWER_BYTES_MAX = 1 << 20
#: headers of a file's answer that are the file's, not the connection's
FILE_HEADERS = (
    "Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "ETag", "Last-Modified", "Digest",
    "Repr-Digest", "Retry-After", "Cache-Control",
)  # fmt: skip


def session_of(context: DoorContext) -> aiohttp.ClientSession:
    assert context.session is not None, "the app is not running"
    return context.session


def make_session(idle_seconds_max: float) -> aiohttp.ClientSession:
    """Large pieces, no decompression, no limit on a whole transfer but one on its standing still."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        read_bufsize=1 << 20,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=idle_seconds_max),
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15.0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def relay_body(request: web.Request, context: DoorContext) -> AsyncIterator[bytes]:
    """The request's body as it comes. Raises ShortBody when the client goes away, TimedOut when it stands still."""
    received = 0
    while True:
        try:
            async with asyncio.timeout(context.idle_seconds_max):
                chunk = await request.content.readany()
        except TimeoutError as exc:
            raise TimedOut(what="the request's body", seconds=context.idle_seconds_max) from exc
        except (aiohttp.ClientError, web.RequestPayloadError, OSError) as exc:
            raise ShortBody(received=received, expected=request.content_length or "an unknown number") from exc
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if request.content_length is not None and received < request.content_length:
        raise ShortBody(received=received, expected=request.content_length)


async def relay_put(request: web.Request, context: DoorContext, url: str, *, what: str) -> tuple[web.Response, bool]:
    """Send the body on to `url`; the answer, passed on, and whether it is a success.

    Raises ShortBody or TimedOut (the other side sees a broken body and stores nothing), Unavailable.
    """
    headers = {"Content-Type": "application/octet-stream"}
    if request.content_length is not None:
        headers["Content-Length"] = str(request.content_length)
    body = relay_body(request, context)
    try:
        async with session_of(context).put(url, data=body, headers=headers, allow_redirects=False) as answer:
            document = await answer.content.read(ANSWER_BYTES_MAX)
            response = web.Response(
                status=answer.status, body=document, headers=_kept(answer.headers, FILE_HEADERS[:1])
            )
            for name in ("Digest", "Repr-Digest", "ETag", "Retry-After"):
                if name in answer.headers:
                    response.headers[name] = answer.headers[name]
            return response, answer.status < 400
    except (aiohttp.ClientError, TimeoutError) as exc:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ShortBody | TimedOut):
                raise cause from exc
            cause = cause.__cause__
        raise Unavailable(what=what, why=str(exc) or type(exc).__name__, retry_after_seconds=2) from exc
    finally:
        await body.aclose()  # type: ignore[attr-defined]  # it is a generator


async def relay_get(
    request: web.Request, context: DoorContext, url: str, *, headers: Mapping[str, str], add: Mapping[str, str],
    what: str,
) -> web.StreamResponse:  # fmt: skip
    """Answer with what `url` answers, streamed. A source that breaks off breaks this answer off too."""
    try:
        async with session_of(context).get(url, headers=headers, allow_redirects=False) as answer:
            kept = _kept(answer.headers, FILE_HEADERS)
            return await _streamed(request, answer, {**kept, **add} if answer.status < 400 else kept)
    except (aiohttp.ClientError, TimeoutError) as exc:
        # Raised before the answer began this is a 503; afterwards the middleware cuts the connection.
        raise Unavailable(what=what, why=str(exc) or type(exc).__name__, retry_after_seconds=2) from exc


async def relay_call(request: web.Request, context: DoorContext, url: str, *, what: str) -> web.StreamResponse:
    """Pass a whole call on, method and body and authorization, and stream the answer back."""
    headers = _kept(request.headers, ("Authorization", "Content-Type", "Accept", "Last-Event-ID", "If-None-Match"))
    data = relay_body(request, context) if request.body_exists else None
    if data is not None and request.content_length is not None:
        headers["Content-Length"] = str(request.content_length)
    try:
        async with session_of(context).request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("connection", "keep-alive", "transfer-encoding", "server", "date")
            }
            return await _streamed(request, answer, kept)
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise Unavailable(what=what, why=str(exc) or type(exc).__name__, retry_after_seconds=2) from exc


async def _streamed(
    request: web.Request, answer: aiohttp.ClientResponse, headers: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    async for chunk in answer.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}

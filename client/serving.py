"""What every server of Capstan does the same way: problem documents, bounded JSON bodies, listening, logging.

Used by the door, the cache server and the job server, so that an error looks the same wherever it comes from. It has
no routes, no rights and no policy.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from catalog.errors import BadJson, BadRequest, CapstanError, NotFound, Refused, ShortBody, TooLarge, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_BYTES_MAX = 1 << 20
#: a namespace path of 4,096 bytes is up to 12,288 when percent-encoded, and must reach the code that judges paths
REQUEST_LINE_BYTES_MAX = 32 * 1024
HEADER_BYTES_MAX = 32 * 1024
#: after a refusal before the body, the rest of the body is read for so long, so that the client sees the answer
LINGERING_SECONDS = 1.0
SHUTDOWN_SECONDS = 2.0
READ_BUFFER_BYTES = 64 * 1024
PROBLEM_CONTENT_TYPE = "application/problem+json"


class MethodNotAllowed(BadRequest):
    """{path} does not take {method}; it takes {allowed}."""

    code, http_status = "method_not_allowed", 405


def problem_response(error: CapstanError) -> web.Response:
    """`error` as application/problem+json, with Retry-After when it says when to try again."""
    response = web.Response(
        status=error.http_status, body=msgspec.json.encode(error.problem()), content_type=PROBLEM_CONTENT_TYPE
    )
    seconds = error.retry_after_seconds
    if seconds is None and isinstance(error, Unavailable):
        seconds = 1.0
    if seconds is not None:
        response.headers["Retry-After"] = str(max(1, round(seconds)))
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="capstan"'
    return response


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem document.

    Once a streamed response has begun there is no way to say what went wrong: the connection is cut, so that the
    client sees a short body and never takes half a file for a whole one.
    """
    try:
        return await handler(request)
    except asyncio.CancelledError:
        raise
    except Exception as exc:  # the last place that can turn it into an answer
        error = _as_capstan_error(exc, request)
        if error is None:
            raise
        if request.writer.output_size > 0:
            log.warning("response cut off", path=request.path, code=error.code, why=str(exc))
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the response was cut off") from exc
        return problem_response(error)


def _as_capstan_error(exc: Exception, request: web.Request) -> CapstanError | None:
    """The typed error for `exc`; None for what is an answer in its own right (a redirect raised as an exception)."""
    if isinstance(exc, CapstanError):
        return exc
    if isinstance(exc, web.HTTPException):
        return _from_http_exception(exc, request)
    if isinstance(exc, web.RequestPayloadError | ConnectionError):
        return ShortBody(received="some", expected=request.headers.get("Content-Length", "all"))
    # The message may hold SQL or paths of this host: it goes to the log and not to the client.
    log.error("request failed", method=request.method, path=request.path, exc_info=exc)
    return CapstanError()


def _from_http_exception(exc: web.HTTPException, request: web.Request) -> CapstanError | None:
    if exc.status < 400:
        return None
    if isinstance(exc, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(
            path=request.path, method=request.method, allowed=", ".join(sorted(exc.allowed_methods))
        )
    if exc.status == 404:
        return NotFound(what=request.path)
    if exc.status == 413:
        return TooLarge(what="the body", actual="larger", limit=f"{request.client_max_size} bytes")
    family: type[CapstanError] = BadRequest if exc.status < 500 else CapstanError
    if exc.status in (401, 403):
        family = Refused
    return family(why=exc.reason)


async def json_body(request: web.Request, type_: type[T], *, limit_bytes: int = JSON_BYTES_MAX) -> T:
    """The body decoded as `type_`. Raises BadJson (malformed, wrong types, unknown fields) and TooLarge.

    Reads at most `limit_bytes`, whatever Content-Length says; the Content-Type is not looked at.
    """
    return decode_json(await read_body(request, limit_bytes=limit_bytes), type_)


async def read_body(request: web.Request, *, limit_bytes: int) -> bytes:
    """The whole body, or TooLarge before more than `limit_bytes` of it was kept."""
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise TooLarge(what="the body", actual=f"{length} bytes", limit=f"{limit_bytes} bytes")
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLarge(what="the body", actual="longer", limit=f"{limit_bytes} bytes")
    return bytes(body)


def decode_json(body: bytes, type_: type[T]) -> T:
    """`body` as `type_`. Raises BadJson with what msgspec found and where."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadJson(why=str(exc)) from exc


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Any msgspec-encodable value as application/json."""
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json", headers=headers or {}
    )


async def send_continue(request: web.Request) -> None:
    """Tell a client that waits with `Expect: 100-continue` to send its body."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The answer proper has not begun: aiohttp's own error path and `problem_middleware` look at this count.
    request.writer.output_size = 0


def expect_after(
    check: Callable[[web.Request], Awaitable[web.StreamResponse | None]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """An `expect_handler` that runs `check` before the body is asked for.

    aiohttp calls expect handlers outside the middlewares and answers 100 by itself. `check` raises, or returns a
    final response (a redirect, 200 nothing to do), or None: then, and only then, the body is asked for. It may leave
    what it found in `request[...]` for the handler. A refusal closes the connection, for the body was not read.
    """

    async def handler(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Expect", "").lower() != "100-continue":
            return _closing(problem_response(BadRequest(why="the only Expect that is understood is 100-continue")))
        try:
            answer = await check(request)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            error = _as_capstan_error(exc, request)
            if error is None:
                raise
            return _closing(problem_response(error))
        if answer is not None:
            return _closing(answer)
        await send_continue(request)
        return None

    return handler


def _closing(response: web.StreamResponse) -> web.StreamResponse:
    if not response.prepared:
        response.force_close()
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A running server: the port that it got, and how to end it."""

    port: int
    runner: web.AppRunner

    async def close(self) -> None:
        await self.runner.cleanup()


def url_at(host: str, port: int) -> str:
    """The URL of what listens there; an address of IPv6 stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def listen(
    app: web.Application,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    shutdown_seconds: float = SHUTDOWN_SECONDS,
    read_buffer_bytes: int = READ_BUFFER_BYTES,
) -> Listener:
    """Serve `app`; port 0 takes a free one. Handlers that stream without end must watch the app's `on_shutdown`.

    `read_buffer_bytes`: of a body, received and not yet taken; large ones are for who moves large files.
    """
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        max_line_size=REQUEST_LINE_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        lingering_time=LINGERING_SECONDS,
        shutdown_timeout=shutdown_seconds,
        # A stored file may be gzip: what a client sends is what is kept.
        auto_decompress=False,
        read_bufsize=read_buffer_bytes,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024, reuse_address=True).start()
    except OSError:
        await runner.cleanup()
        raise
    return Listener(port=int(runner.addresses[0][1]), runner=runner)


def configure_logging(*, level: str = "info", process: str = "") -> None:
    """Events with fields on stderr: JSON lines, or coloured text on a terminal. `process` is put on every line."""
    threshold = getattr(logging, level.upper(), None)
    if not isinstance(threshold, int):
        raise ValueError(f"{level!r} is not a log level; use debug, info, warning or error")
    on_terminal = sys.stderr.isatty()
    renderers: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if on_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    if process:
        structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(stream=sys.stderr, level=max(threshold, logging.WARNING), format="%(name)s: %(message)s")

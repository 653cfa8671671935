"""HTTP to whichever door answers: the next door when one is dead, safe repeats, problem documents as typed errors.

Tokens go to doors only: a redirect to another host or port is followed without one. It knows no API; see `session`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
import stamina
from yarl import URL

from catalog.errors import (
    BadPath,
    BadRequest,
    CapstanError,
    DoorUnreachable,
    NotFound,
    Refused,
    Retry,
    Unauthenticated,
    Unavailable,
    from_problem,
)
from client.locations import Door, origin

T = TypeVar("T")

CONNECT_SECONDS = 5.0
#: silence on a connection after which it is given up; fsync of a large file comes before the answer to its PUT
SILENCE_SECONDS = 120.0
#: a door that never answered is more likely mistyped than starting again
FIRST_CONTACT_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
RETRY_PAUSE_SECONDS_MAX = 5.0
REDIRECTS_MAX = 3
PROBLEM_BYTES_MAX = 64 * 1024
READ_BUFFER_BYTES = 1 << 20
HEADER_BYTES_MAX = 32 * 1024
#: above this a body waits for 100 Continue, so that a refusal comes before it
EXPECT_BYTES = 1 << 20
#: the same for a door, which sends bodies on to another server: up to this a body is sent in vain, for a refusal of
#: Expect, and be it a redirect, costs the connection
EXPECT_DOOR_BYTES = 128 * 1024
#: codes of Unavailable that pass by themselves and soon; waiting for a tape is not among them
_SOON = frozenset(
    {
        "unavailable", "catalog_unreachable", "door_unreachable", "too_busy", "no_space", "not_online",
        "space_given_back",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to a door. `data` makes the body anew for each attempt."""

    method: str
    #: path below the door's URL, not quoted
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] | None = None
    data: Callable[[], Any] | None = None
    #: of the body; None: no body
    length: int | None = None
    #: whether a repeat after a lost answer does no harm
    repeatable: bool = True
    follow: bool = False
    silence_seconds: float = SILENCE_SECONDS


class NotADoor(CapstanError):
    """{url} did not answer {what} as a Capstan door does ({why}); is CAPSTAN_URL right?"""

    code = "not_a_door"


class MaybeDone(DoorUnreachable):
    """The connection to {url} broke before the answer came ({why}): what was asked may have been done or not."""


class Transport:
    """The doors, one pool of connections, and how long to be patient. Use as an async context manager."""

    def __init__(
        self,
        doors: tuple[Door, ...],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        first_contact_seconds: float = FIRST_CONTACT_SECONDS,
    ) -> None:
        self.doors = doors
        self._patience_seconds = patience_seconds
        self._first_contact_seconds = min(first_contact_seconds, patience_seconds)
        #: the door that answered last is asked first
        self._preferred = 0
        self._answered = False
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            headers={"User-Agent": "capstan-client"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def retry(self, function: Callable[[], Awaitable[T]], *, repeatable: bool = True) -> T:
        """`function` again while that is safe and can help, within the patience. Raises its last error."""
        patience = self._patience_seconds if self._answered else self._first_contact_seconds
        if patience <= 0:
            return await function()
        async for attempt in stamina.retry_context(
            on=lambda error: _pause_before_repeat(error, repeatable),
            attempts=None,
            timeout=patience,
            wait_initial=0.1,
            wait_max=RETRY_PAUSE_SECONDS_MAX,
            wait_jitter=0.1,
        ):
            with attempt:
                return await function()
        raise AssertionError("a retry context ends with a result or an exception")

    async def send(self, call: Call) -> aiohttp.ClientResponse:
        """The answer of the first door that gives one, with a status below 400; the caller releases it. Not repeated.

        Raises what the problem document says, else DoorUnreachable when no door answered.
        """
        failure: CapstanError | None = None
        for step in range(len(self.doors)):
            number = (self._preferred + step) % len(self.doors)
            try:
                response = await self._ask(self.doors[number], call)
            except MaybeDone as exc:
                if not call.repeatable:
                    raise
                failure = failure or exc
                continue
            except DoorUnreachable as exc:
                failure = failure or exc
                continue
            self._preferred, self._answered = number, True
            return response
        raise failure or DoorUnreachable(url="", why="no door is configured")

    async def call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | None = None,
        query: Mapping[str, str] | None = None,
        repeatable: bool = True,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> T:
        """A JSON call, repeated while that is safe. An empty answer decodes as null."""
        try:
            content = None if body is None else msgspec.json.encode(body)
        except UnicodeEncodeError as exc:
            raise BadRequest(why=f"{exc.object!a} is not valid UTF-8") from exc
        request = Call(
            method=method,
            path=path,
            query=query,
            headers={} if content is None else {"Content-Type": "application/json"},
            data=None if content is None else lambda: content,
            length=None if content is None else len(content),
            repeatable=repeatable,
            silence_seconds=silence_seconds,
        )

        async def once() -> T:
            async with await self.send(request) as response:
                raw = await self._body(response)
            try:
                return msgspec.json.decode(raw or b"null", type=answer)
            except msgspec.DecodeError as exc:
                raise NotADoor(url=str(response.url.origin()), what=f"{method} {path}", why=str(exc)) from exc

        return await self.retry(once, repeatable=repeatable)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            return await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise MaybeDone(url=str(response.url.origin()), why=_why(exc)) from exc

    async def _ask(self, door: Door, call: Call) -> aiohttp.ClientResponse:
        try:
            url = URL(door.url + quote(call.path, safe="/"), encoded=True)
        except UnicodeEncodeError as exc:
            raise BadPath(path=call.path.encode("utf-8", "replace").decode(), why="it is not valid UTF-8") from exc
        if call.query:
            url = url.with_query(dict(call.query))
        response = await self._exchange(url, door, call, expect=call.follow and (call.length or 0) > EXPECT_DOOR_BYTES)
        for _ in range(REDIRECTS_MAX):
            if not (call.follow and response.status in (307, 308)):
                break
            location = response.headers.get("Location", "")
            # To its end, so that the connection serves the next request; a door that closes it does so by itself.
            response.release()
            url = url.join(URL(location, encoded=True))
            response = await self._exchange(url, door, call, expect=(call.length or 0) > EXPECT_BYTES)
        if response.status < 400:
            return response
        raise await _error_of(response)

    async def _exchange(self, url: URL, door: Door, call: Call, *, expect: bool) -> aiohttp.ClientResponse:
        assert self._http is not None, "use the session as an async context manager"
        headers = dict(call.headers)
        # A signed URL of a cache server is its own credential: the token never leaves for another host or port.
        if door.token and origin(str(url)) == origin(door.url):
            headers["Authorization"] = f"Bearer {door.token}"
        data = None
        if call.length is not None:
            headers["Content-Length"] = str(call.length)
            data = call.data() if call.data is not None else None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=call.silence_seconds)
        try:
            return await self._http.request(
                call.method,
                url,
                headers=headers,
                data=data,
                allow_redirects=False,
                expect100=expect,
                timeout=timeout,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise DoorUnreachable(url=str(url.origin()), why=_why(exc)) from exc
        except aiohttp.InvalidURL as exc:
            raise BadRequest(why=f"{url} is not a URL that can be asked") from exc
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as exc:
            raise MaybeDone(url=str(url.origin()), why=_why(exc)) from exc


def _why(exc: BaseException) -> str:
    if isinstance(exc, aiohttp.ClientConnectorError):
        number = exc.os_error.errno
        return os.strerror(number) if number and number > 0 else exc.os_error.strerror or "no connection"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc) or type(exc).__name__


def _pause_before_repeat(error: Exception, repeatable: bool) -> bool | float:
    """For stamina: False is not again, True is after its own pause, a number is after so many seconds."""
    if isinstance(error, MaybeDone):
        return repeatable
    if isinstance(error, DoorUnreachable):
        return True
    if isinstance(error, Unavailable) and error.code in _SOON and (repeatable or error.code == "too_busy"):
        seconds = error.retry_after_seconds
        return True if seconds is None else min(seconds, RETRY_PAUSE_SECONDS_MAX)
    return False


async def _error_of(response: aiohttp.ClientResponse) -> CapstanError:
    """The typed error of an answer; one without a problem document is judged by its status."""
    try:
        raw = b""
        async for chunk in response.content.iter_any():
            raw += chunk
            if len(raw) > PROBLEM_BYTES_MAX:
                break
    except (aiohttp.ClientError, TimeoutError):
        raw = b""
    finally:
        response.close()
    document: Any = None
    if "json" in response.content_type:
        try:
            document = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            document = None
    server = str(response.url.origin())
    if not isinstance(document, dict):
        return _by_status(response.status, server, response.reason or "")
    error = from_problem(document, response.status)
    if type(error) is CapstanError and response.status != 500:
        detail = str(error)
        error = _by_status(response.status, server, detail)
        error.args = (detail,)
    after = response.headers.get("Retry-After", "")
    if error.retry is not Retry.NEVER and after.isdigit():
        error.arguments.setdefault("retry_after_seconds", int(after))
    return error


def _by_status(status: int, server: str, reason: str) -> CapstanError:
    if status in (502, 504):
        return MaybeDone(url=server, why=f"HTTP {status} {reason}".strip())
    if status == 503:
        return DoorUnreachable(url=server, why=f"HTTP {status} {reason}".strip())
    if status == 401:
        return Unauthenticated(why=reason)
    if status in (404, 410):
        return NotFound(what="that")
    if status in (403, 409, 412):
        return Refused(why=f"HTTP {status} {reason}".strip())
    if status == 429:
        return Unavailable(what=server, why=reason)
    if status < 500:
        return BadRequest(why=f"HTTP {status} {reason}".strip())
    error = CapstanError()
    error.args = (f"{server} answered HTTP {status} {reason}".strip(),)
    return error

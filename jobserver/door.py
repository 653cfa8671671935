"""The door as the job server uses it: every call one coroutine, typed errors, the next door when one does not answer.

Two identities go through here: the job server's own token (pins, stage requests, tokens of jobs), and a submitter's
own Authorization header, passed on as it came, so that the door judges what a submitter may see.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from catalog.errors import CapstanError, DoorUnreachable, NotFound, TooLarge, Unavailable, from_problem
from catalog.model import Grant
from client.messages import (
    LIST_LIMIT_MAX,
    Entry,
    FileLocation,
    ListBody,
    Listing,
    Pinned,
    PinsBody,
    StageAccepted,
    StageBody,
    StageFile,
    StageProgress,
    TokenBody,
    TokenMade,
    UnpinBody,
    Whereis,
    WhereisBody,
    WhoAmI,
)
from client.operatormessages import Items, ServerBody, VolumeFile, VolumeFiles

T = TypeVar("T")

CALL_SECONDS_MAX = 60.0
ANSWER_BYTES_MAX = 1 << 28
_API = "/api/capstan/v1"


class Door:
    """One job server's way to the doors; use it as `async with Door(urls, token_file) as door`."""

    def __init__(self, urls: Sequence[str], token_file: Path) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._token_file = token_file
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS_MAX, sock_connect=5.0), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # ------------------------------------------------------------------ who, and what is where

    async def whoami(self, authorization: str) -> WhoAmI:
        """Whose Authorization header that is. Raises Unauthenticated."""
        return await self._call("GET", f"{_API}/whoami", WhoAmI, authorization=authorization)

    def as_submitter(self, authorization: str) -> SubmittersView:
        return SubmittersView(self, authorization)

    async def whereis(self, paths: Sequence[str], *, authorization: str | None = None) -> list[FileLocation]:
        body = WhereisBody(paths=list(paths))
        return (await self._call("POST", f"{_API}/whereis", Whereis, body, authorization=authorization)).files

    async def directory(self, path: str, *, authorization: str | None = None) -> AsyncIterator[Entry]:
        after = ""
        while True:
            body = ListBody(path=path, after=after, limit=LIST_LIMIT_MAX)
            listing = await self._call("POST", f"{_API}/list", Listing, body, authorization=authorization)
            for entry in listing.entries:
                yield entry
            if listing.next is None:
                return
            after = listing.next

    async def libraries_down(self) -> dict[str, str]:
        """Libraries that are not up -> state and reason."""
        rows = (await self._call("GET", f"{_API}/libraries", Items)).items
        return {
            str(row["name"]): f"{row['state']} ({row['reason']})" if row.get("reason") else str(row["state"])
            for row in rows
            if row.get("state") != "up"
        }

    async def cache_bytes(self) -> int | None:
        """The capacity of all cache servers that are known, also of those that do not answer now; None without any."""
        rows = (await self._call("GET", f"{_API}/cache", Items)).items
        return sum(int(row["capacity_bytes"]) for row in rows) if rows else None

    async def volume_files(self, volume: str, *, limit: int) -> AsyncIterator[VolumeFile]:
        """The first `limit` files of a volume, in the order in which they lie."""
        after: tuple[int, int] | None = None
        while limit > 0:
            query = f"limit={min(limit, LIST_LIMIT_MAX)}"
            query += f"&after_block={after[0]}&after_offset={after[1]}" if after else ""
            page = await self._call("GET", f"{_API}/volumes/{quote(volume, safe='')}/files?{query}", VolumeFiles)
            for found in page.files:
                yield found
            limit -= len(page.files)
            if page.next is None or not page.files:
                return
            after = page.next

    # ------------------------------------------------------------------ staging and pins

    async def stage(self, paths: Sequence[str], *, lifetime_seconds: float, activity: str) -> str:
        """The id of the request. Not safe to repeat, though a repeat reads nothing twice from tape."""
        lifetime = f"PT{max(1, round(lifetime_seconds))}S"
        metadata = {"default": {"activity": activity}}
        files = [StageFile(path=path, disk_lifetime=lifetime, targeted_metadata=metadata) for path in paths]
        return (await self._call("POST", "/api/v1/stage", StageAccepted, StageBody(files=files))).request_id

    async def stage_progress(self, request: str) -> StageProgress | None:
        """None when there is no such request (any more)."""
        try:
            return await self._call("GET", f"/api/v1/stage/{quote(request, safe='')}", StageProgress)
        except NotFound:
            return None

    async def delete_stage(self, request: str) -> None:
        """Safe to repeat. What is under way stops when nobody else waits for it."""
        try:
            await self._do("DELETE", f"/api/v1/stage/{quote(request, safe='')}")
        except NotFound:
            return

    async def pin(self, owner: str, files: Sequence[int], *, lifetime_seconds: float) -> list[int]:
        """Pin, or renew, files for an owner; the ids that do not exist any more."""
        missing: list[int] = []
        for start in range(0, len(files), LIST_LIMIT_MAX):
            chunk = list(files[start : start + LIST_LIMIT_MAX])
            body = PinsBody(owner=owner, files=chunk, lifetime_seconds=lifetime_seconds)
            missing += (await self._call("POST", f"{_API}/pins", Pinned, body)).missing
        return missing

    async def unpin(self, owner: str) -> None:
        """Drop every pin of an owner. Safe to repeat."""
        await self._do("DELETE", f"{_API}/pins", UnpinBody(owner=owner))

    # ------------------------------------------------------------------ tokens, registration, events

    async def make_token(
        self, *, label: str, owner: str, groups: Sequence[str], grants: Sequence[Grant], lifetime_seconds: float
    ) -> TokenMade:
        body = TokenBody(
            label=label,
            owner=owner,
            groups=list(groups),
            grants=[(str(grant.action), grant.prefix) for grant in grants],
            lifetime_seconds=lifetime_seconds,
        )
        return await self._call("POST", f"{_API}/tokens", TokenMade, body)

    async def revoke_token(self, token_id: int) -> None:
        """Safe to repeat."""
        try:
            await self._do("DELETE", f"{_API}/tokens/{token_id}")
        except NotFound:
            return

    async def heartbeat(self, body: ServerBody) -> None:
        await self._do("POST", f"{_API}/servers", body)

    async def events(self) -> AsyncIterator[str]:
        """Kinds of events as they happen, until the stream ends. A hint only: whoever listens also looks."""
        assert self._session is not None
        headers = {"Authorization": self._own(), "Accept": "text/event-stream"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=120.0)
        try:
            async with self._session.get(f"{self._urls[0]}{_API}/events", headers=headers, timeout=timeout) as answer:
                if answer.status != 200:
                    raise Unavailable(what="the event stream", why=f"HTTP {answer.status}")
                async for line in answer.content:
                    if line.startswith(b"event:"):
                        yield line[6:].strip().decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DoorUnreachable(url=self._urls[0], why=str(error) or type(error).__name__) from error

    # ------------------------------------------------------------------ one call

    def _own(self) -> str:
        # Read each time: an operator may replace the token of a running server.
        try:
            return f"Bearer {self._token_file.read_text().strip()}"
        except OSError as error:
            raise Unavailable(what="the job server's token", why=str(error)) from error

    async def _call(
        self, method: str, path: str, answer_type: type[T], body: Any = None, *, authorization: str | None = None
    ) -> T:
        """The answer as `answer_type`. Raises what the door's problem document says, or DoorUnreachable."""
        content = await self._do(method, path, body, authorization=authorization)
        try:
            return msgspec.json.decode(content, type=answer_type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(what=f"the answer to {path}", why=str(error)) from error

    async def _do(self, method: str, path: str, body: Any = None, *, authorization: str | None = None) -> bytes:
        headers = {"Authorization": authorization or self._own()}
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        for url in self._urls[:-1]:
            with suppress(DoorUnreachable):
                return await self._once(method, url + path, headers, data)
        return await self._once(method, self._urls[-1] + path, headers, data)

    async def _once(self, method: str, url: str, headers: dict[str, str], data: bytes | None) -> bytes:
        assert self._session is not None
        content = bytearray()
        try:
            async with self._session.request(method, url, headers=headers, data=data, allow_redirects=False) as answer:
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > ANSWER_BYTES_MAX:
                        raise TooLarge(what=f"the answer of {url}", actual="longer", limit=ANSWER_BYTES_MAX)
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DoorUnreachable(url=url, why=str(error) or type(error).__name__) from error
        if status >= 400:
            raise _problem(bytes(content), status)
        return bytes(content)


class SubmittersView:
    """The namespace with a submitter's own rights; what jobserver.expand asks for."""

    def __init__(self, door: Door, authorization: str) -> None:
        self._door = door
        self._authorization = authorization

    def directory(self, path: str) -> AsyncIterator[Entry]:
        return self._door.directory(path, authorization=self._authorization)

    async def whereis(self, paths: Sequence[str]) -> list[FileLocation]:
        return await self._door.whereis(paths, authorization=self._authorization)


def _problem(content: bytes, status: int) -> CapstanError:
    try:
        document = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = {"detail": content[:200].decode(errors="replace")}
    return from_problem(document, status)

"""The doors as the job server uses them: the client's library, each call bounded in time and asked once.

Two identities go through here: the job server's own token (pins, stage requests, tokens of jobs), and a submitter's
own, passed on, so that the door judges what a submitter may see. Nothing is repeated here: the pre-stager's next round
is the repetition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from catalog.errors import BadConfig, DoorUnreachable, NotFound, Unauthenticated
from catalog.model import Grant
from client.locations import Door
from client.messages import LIST_LIMIT_MAX, FileLocation, StageProgress, TokenMade
from client.operatormessages import ServerBody, VolumeFile
from client.session import Session

T = TypeVar("T")


class Doors:
    """One job server's way to the doors; use it as `async with Doors(urls, token_file) as doors`.

    Every call raises what the door's problem document says, or DoorUnreachable when none answers in time.
    """

    def __init__(self, urls: Sequence[str], token_file: Path, *, call_seconds_max: float = 60.0) -> None:
        if not urls:
            raise BadConfig(source="door_urls", why="there is no door in it")
        self._urls = [url.rstrip("/") for url in urls]
        self._token_file = token_file
        self._call_seconds_max = call_seconds_max
        self._session = Session(self._doors(""), patience_seconds=0)

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def as_submitter(self, authorization: str) -> AsyncIterator[Session]:
        """A session with the token of an Authorization header. Raises Unauthenticated when it holds none."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip().isascii() or not token.strip().isprintable():
            raise Unauthenticated(why="there is no bearer token in the Authorization header")
        async with Session(self._doors(token.strip()), patience_seconds=0) as session:
            yield session

    # ------------------------------------------------------------------ what is where

    async def whereis(self, paths: Sequence[str]) -> list[FileLocation]:
        return await self._bounded(self._own().whereis(paths))

    async def libraries_down(self) -> dict[str, str]:
        """Libraries that are not up -> state and reason."""
        rows = await self._bounded(self._own().operators.items("libraries"))
        return {
            str(row["name"]): f"{row['state']} ({row['reason']})" if row.get("reason") else str(row["state"])
            for row in rows
            if row.get("state") != "up"
        }

    async def cache_bytes(self) -> int | None:
        """The capacity of all cache servers that are known, also of those that do not answer now; None without any."""
        rows = await self._bounded(self._own().operators.items("cache"))
        return sum(int(row["capacity_bytes"]) for row in rows) if rows else None

    def volume_files(self, volume: str) -> AsyncIterator[VolumeFile]:
        """The files of a volume in the order in which they lie; stop when it is enough."""
        return self._own().operators.volume_files(volume, limit=LIST_LIMIT_MAX)

    # ------------------------------------------------------------------ staging and pins

    async def stage(
        self, paths: Sequence[str], *, lifetime_seconds: float, activity: str, cohorts: Mapping[str, str]
    ) -> str:
        """The id of the request. Made twice, the files are still read from tape once. `cohorts`: path -> label."""
        staging = self._own().staging
        return await self._bounded(
            staging.request(paths, lifetime_seconds=lifetime_seconds, activity=activity, cohorts=cohorts)
        )

    async def stage_progress(self, request: str) -> StageProgress | None:
        """None when there is no such request (any more)."""
        try:
            return await self._bounded(self._own().staging.progress(request))
        except NotFound:
            return None

    async def delete_stage(self, request: str) -> None:
        """Safe to repeat. What is under way stops when nobody else waits for it."""
        await self._bounded(self._own().staging.delete(request))

    async def pin(self, owner: str, files: Sequence[int], *, lifetime_seconds: float) -> None:
        """Pin, or renew, files for an owner. Safe to repeat."""
        for start in range(0, len(files), LIST_LIMIT_MAX):
            chunk = files[start : start + LIST_LIMIT_MAX]
            await self._bounded(self._own().pin(owner, chunk, lifetime_seconds=lifetime_seconds))

    async def unpin(self, owner: str) -> None:
        """Drop every pin of an owner. Safe to repeat."""
        await self._bounded(self._own().unpin(owner))

    # ------------------------------------------------------------------ tokens, registration, events

    async def make_token(
        self, *, label: str, owner: str, groups: Sequence[str], grants: Sequence[Grant], lifetime_seconds: float
    ) -> TokenMade:
        wanted = [(str(grant.action), grant.prefix) for grant in grants]
        return await self._bounded(
            self._own().operators.make_token(
                label=label, owner=owner, groups=groups, grants=wanted, lifetime_seconds=lifetime_seconds
            )
        )

    async def revoke_token(self, token_id: int) -> None:
        """Safe to repeat."""
        try:
            await self._bounded(self._own().operators.revoke_token(token_id))
        except NotFound:
            return

    async def heartbeat(self, body: ServerBody) -> None:
        call: Awaitable[Any] = self._own().transport.call("POST", "/api/capstan/v1/servers", object, body=body)
        await self._bounded(call)

    async def events(self) -> AsyncIterator[None]:
        """Something happened. A hint only: whoever listens also looks."""
        async for _ in self._own().events():
            yield None

    # ------------------------------------------------------------------ how

    def _doors(self, token: str) -> tuple[Door, ...]:
        return tuple(Door(url=url, token=token) for url in self._urls)

    def _own(self) -> Session:
        # Read each time: an operator may replace the token of a running server.
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise Unauthenticated(why=f"the job server's token cannot be read: {error}") from error
        if self._session.transport.doors[0].token != token:
            self._session.transport.doors = self._doors(token)
        return self._session

    async def _bounded(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._call_seconds_max):
                return await call
        except TimeoutError as error:
            why = f"no answer in {self._call_seconds_max:g} s"
            raise DoorUnreachable(url=self._urls[0], why=why) from error

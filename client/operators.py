"""Operators' calls: what there is, what waits, and the way out of stuck states. Changes need a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from client.messages import TokenBody, TokenMade
from client.operatormessages import (
    DropBody,
    Dropped,
    Items,
    QueueView,
    ReasonBody,
    RetryBody,
    Row,
    StateBody,
    Status,
    VolumeFile,
    VolumeFiles,
)
from client.transport import Transport

_API = "/api/capstan/v1"
#: a drop of many files is many transactions before its answer
DROP_SILENCE_SECONDS = 600.0
STATUS_SECONDS = 1.3


class Operators:
    """The operators' API over a session's transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def status(self) -> Status:
        """What answers; one try and no more, within 2 s."""
        return await self._transport.call("GET", f"{_API}/status", Status, silence_seconds=STATUS_SECONDS)

    async def queue(self) -> QueueView:
        return await self._transport.call("GET", f"{_API}/queue", QueueView)

    async def retry_held(self, kind: str, *, reason: str) -> Row:
        """Try again what waits for an operator; kind: archives, recalls, all."""
        return await self._post(f"{_API}/queue/retry", RetryBody(kind=kind, reason=reason))

    async def items(self, what: str) -> list[Row]:
        """drives, libraries, volumes, pools, storage-classes, requests, cache"""
        return (await self._transport.call("GET", f"{_API}/{what}", Items)).items

    async def item(self, what: str, name: str) -> Row:
        return await self._transport.call("GET", f"{_API}/{what}/{name}", Row)

    async def set_state(self, what: str, name: str, state: str, *, reason: str) -> Row:
        """drives and libraries: up, down; volumes: enabled, disabled."""
        return await self._post(f"{_API}/{what}/{name}", StateBody(state=state, reason=reason))

    async def cancel_request(self, request_id: str, *, reason: str) -> Row:
        return await self._post(f"{_API}/requests/{request_id}/cancel", ReasonBody(reason=reason))

    async def volume_files(self, volume: str, *, limit: int = 10_000) -> AsyncIterator[VolumeFile]:
        """All files of a volume by position, page by page."""
        query = {"limit": str(limit)}
        while True:
            page = await self._transport.call("GET", f"{_API}/volumes/{volume}/files", VolumeFiles, query=query)
            for file in page.files:
                yield file
            if page.next is None:
                return
            query |= {"after_block": str(page.next[0]), "after_offset": str(page.next[1])}

    async def drop(self, paths: Sequence[str], *, wait: bool = False) -> Dropped:
        """Drop every safe, unpinned replica at or below the paths. With `wait` the server waits a while for files
        that are not safe yet; `kept_count` says what stayed, and why."""
        body = DropBody(paths=list(paths), wait=wait)
        return await self._transport.call(
            "POST", f"{_API}/cache/drop", Dropped, body=body, silence_seconds=DROP_SILENCE_SECONDS
        )

    async def make_token(
        self,
        *,
        label: str,
        owner: str,
        groups: Sequence[str],
        grants: Sequence[tuple[str, str]],
        lifetime_seconds: float | None = None,
    ) -> TokenMade:
        """A token with no more rights than one's own; its secret is shown this once."""
        body = TokenBody(
            label=label, owner=owner, groups=list(groups), grants=list(grants), lifetime_seconds=lifetime_seconds
        )
        return await self._transport.call("POST", f"{_API}/tokens", TokenMade, body=body, repeatable=False)

    async def revoke_token(self, token_id: int) -> None:
        await self._transport.call("DELETE", f"{_API}/tokens/{token_id}", object)

    async def _post(self, path: str, body: StateBody | ReasonBody | RetryBody) -> Row:
        return await self._transport.call("POST", path, Row, body=body)

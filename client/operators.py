"""Operators' calls: what there is, what waits, and the way out of stuck states. Changes need a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from client.messages import OurRequest, TokenBody, TokenMade
from client.operatormessages import (
    AuditBody,
    DropBody,
    Dropped,
    Items,
    KindBody,
    PoolBody,
    PoolChange,
    QueueView,
    ReasonBody,
    RetryBody,
    Row,
    RuleBody,
    ShareBody,
    ShareRemoval,
    StateBody,
    Status,
    StorageClassBody,
    StorageClassChange,
    VolumeBody,
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
        """drives, libraries, volumes, pools, storage-classes, requests, cache, tokens, alerts, shares, rules"""
        return (await self._transport.call("GET", f"{_API}/{what}", Items)).items

    async def item(self, what: str, name: str) -> Row:
        return await self._transport.call("GET", f"{_API}/{what}/{name}", Row)

    async def set_state(self, what: str, name: str, state: str, *, reason: str) -> Row:
        """drives and libraries: up, down; volumes: enabled, disabled."""
        return await self._post(f"{_API}/{what}/{name}", StateBody(state=state, reason=reason))

    async def set_kind(self, what: str, name: str, kind: str, *, reason: str) -> Row:
        """What a drive ("drives") or a volume ("volumes") is, above what its library says; "auto" takes it back."""
        noun = {"drives": "model", "volumes": "medium"}[what]
        return await self._post(f"{_API}/{what}/{name}/{noun}", KindBody(kind=kind, reason=reason))

    async def volume(
        self, volume: str, verb: str, *, reason: str, force: bool = False, share: float | None = None
    ) -> Row:
        """enable, disable, close, reopen, broken, export, import, label, relabel, reclaim, verify, repack, cancel,
        remove. Raises WrongState, NotReclaimable (what is in the way), Unsafe (export without `force`)."""
        return await self._post(f"{_API}/volumes/{volume}/{verb}", VolumeBody(reason=reason, force=force, share=share))

    async def maintenance(self, *, everything: bool = False) -> list[Row]:
        """Verifies, repacks, labels and audits that are under way, or all that are remembered; the newest first."""
        query = {"all": "1"} if everything else {}
        return (await self._transport.call("GET", f"{_API}/maintenance", Items, query=query)).items

    async def cancel_maintenance(self, number: int, *, reason: str) -> Row:
        return await self._post(f"{_API}/maintenance/{number}/cancel", ReasonBody(reason=reason))

    async def audit(self, storage_classes: Sequence[str] = (), *, reason: str) -> list[Row]:
        """Look for missing copies in these classes, or in all."""
        body = AuditBody(reason=reason, storage_classes=list(storage_classes))
        return (await self._transport.call("POST", f"{_API}/audits", Items, body=body)).items

    async def create_pool(
        self, name: str, *, library: str, volumes_open_max: int | None = None, reason: str = ""
    ) -> None:
        body = PoolBody(name=name, library=library, volumes_open_max=volumes_open_max, reason=reason)
        await self._transport.call("POST", f"{_API}/pools", object, body=body)

    async def change_pool(self, name: str, *, volumes_open_max: int | None, reason: str) -> Row:
        return await self._post(f"{_API}/pools/{name}", PoolChange(reason=reason, volumes_open_max=volumes_open_max))

    async def create_storage_class(self, name: str, *, copies: int, pools: Sequence[str]) -> None:
        body = StorageClassBody(name=name, copies=copies, pools=list(pools))
        await self._transport.call("POST", f"{_API}/storage-classes", object, body=body)

    async def change_storage_class(
        self, name: str, *, reason: str, copies: int | None = None, pools: Sequence[str] | None = None
    ) -> Row:
        """Copies that are missing then are made by an audit, whose number is in the answer."""
        body = StorageClassChange(reason=reason, copies=copies, pools=None if pools is None else list(pools))
        return await self._post(f"{_API}/storage-classes/{name}", body)

    async def usage(self, *, by: str, since_seconds: float) -> list[Row]:
        """What the drives did in these days, by user, group or day; all of it for an administrator, else one's own."""
        query = {"by": by, "since": f"{since_seconds:.0f}"}
        return (await self._transport.call("GET", f"{_API}/usage", Items, query=query)).items

    async def set_share(self, group: str, owner: str = "", *, changes: Mapping[str, Any], reason: str) -> Row:
        """`changes`: any of weight, drive_seconds, reading_drives, writing_drives; None takes a bound away."""
        return await self._post(f"{_API}/shares", ShareBody(group=group, owner=owner, reason=reason, **changes))

    async def remove_share(self, group: str, owner: str = "", *, reason: str) -> Row:
        return await self._post(f"{_API}/shares/remove", ShareRemoval(group=group, owner=owner, reason=reason))

    async def add_rule(self, *, reason: str, weight: float, before: int | None = None, **patterns: Any) -> Row:
        """`patterns`: any of activity, group, owner, priority_min, priority_max. Its place is in the answer."""
        body = RuleBody(reason=reason, weight=weight, before=before, **patterns)
        return await self._transport.call("POST", f"{_API}/rules", Row, body=body, repeatable=False)

    async def remove_rule(self, place: int, *, reason: str) -> Row:
        body = ReasonBody(reason=reason)
        return await self._transport.call("POST", f"{_API}/rules/{place}/remove", Row, body=body, repeatable=False)

    async def clear_alert(self, number: int) -> Row:
        return await self._transport.call("POST", f"{_API}/alerts/{number}/clear", Row)

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

    async def _post(self, path: str, body: OurRequest) -> Row:
        return await self._transport.call("POST", path, Row, body=body)

"""The recycle bin over HTTP: what was removed and can be had back. Users restore their own; administrators purge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from client.messages import (
    PurgeBody,
    Purged,
    Recycled,
    RecycledFile,
    RecycleListBody,
    RestoreBody,
    Restored,
)
from client.transport import Transport

_API = "/api/capstan/v1/recycle"
#: a purge of many files is many transactions before its answer
PURGE_SILENCE_SECONDS = 600.0


class Recycle:
    """The recycle bin over a session's transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def listed(self, prefix: str = "/") -> AsyncIterator[RecycledFile]:
        """What was removed at and below `prefix` and may be restored by the caller, by path."""
        body = RecycleListBody(prefix=prefix)
        while True:
            page = await self._transport.call("POST", f"{_API}/list", Recycled, body=body)
            for file in page.files:
                yield file
            if page.next is None:
                return
            body.after = page.next

    async def restore(
        self, *, path: str | None = None, file_id: int | None = None, to: str | None = None, parents: bool = False
    ) -> Restored:
        """Give a removed file a name again. Raises NotFound, Exists, ParentMissing, Denied, Refused."""
        body = RestoreBody(file_id=file_id, path=path, to=to, parents=parents)
        # After a lost answer the file is no longer in the bin; a repeat would say so and mislead.
        return await self._transport.call("POST", f"{_API}/restore", Restored, body=body, repeatable=False)

    async def purge(
        self,
        *,
        reason: str,
        file_ids: Sequence[int] | None = None,
        prefix: str | None = None,
        older_than_seconds: float | None = None,
    ) -> Purged:
        """Give up what all the conditions choose; it cannot be restored any more."""
        body = PurgeBody(
            reason=reason,
            file_ids=None if file_ids is None else list(file_ids),
            prefix=prefix,
            older_than_seconds=older_than_seconds,
        )
        return await self._transport.call(
            "POST", f"{_API}/purge", Purged, body=body, silence_seconds=PURGE_SILENCE_SECONDS
        )

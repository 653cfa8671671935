"""The library that users import: files by their names, wherever their bytes are.

    async with Session() as session:
        await session.put(Path("f"), "/exp/f")
        await session.get("/exp/f", Path("copy"))

`session.staging`, `.jobs`, `.recycle` and `.operators` hold the other APIs; many files at a time are in `fetching`. It
prints nothing and keeps nothing between sessions.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from catalog.errors import Exists, ExistsCondition, NotFound, NotOnline, OnTape, ParentMissing
from client.checksums import of_file
from client.globs import is_glob, matcher, split
from client.jobs import Jobs
from client.locations import Door, doors_from
from client.messages import (
    LIST_LIMIT_MAX,
    PATHS_MAX,
    Entry,
    Event,
    FileLocation,
    ListBody,
    Listing,
    Pinned,
    PinsBody,
    Stored,
    UnpinBody,
    Unpinned,
    Whereis,
    WhereisBody,
    WhoAmI,
)
from client.operators import Operators
from client.recycling import Recycle
from client.staging import OnWaiting, Staging, no_waiting
from client.transfer import Progress, Put, no_progress, receive_file, send_file
from client.transport import FIRST_CONTACT_SECONDS, PATIENCE_SECONDS, Call, MaybeDone, Transport

_API = "/api/capstan/v1"
#: the bytes of a file can be dropped between its arrival from tape and the read
GET_ROUNDS_MAX = 3
EVENT_SILENCE_SECONDS = 60.0
#: a GET now would only make the door queue the recall, and pin it for longer than this needs
_ON_TAPE = frozenset({"TAPE", "UNAVAILABLE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What became of a name: a file that is on tape can be restored, at least until then (seconds since 1970)."""

    #: 0: a directory, or a file that was on no tape and is gone
    file_id: int = 0
    restorable_until: float = 0.0


class Session:
    """One user's way to the doors. Without arguments it asks the environment: see `locations`.

    `patience_seconds`: for how long what can safely be repeated is repeated; 0: asked once.
    """

    def __init__(
        self,
        doors: Sequence[Door] | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        patience_seconds: float = PATIENCE_SECONDS,
        first_contact_seconds: float = FIRST_CONTACT_SECONDS,
    ) -> None:
        self.transport = Transport(
            tuple(doors) if doors is not None else doors_from(environment),
            patience_seconds=patience_seconds,
            first_contact_seconds=first_contact_seconds,
        )
        self.staging = Staging(self.transport)
        self.jobs = Jobs(self.transport)
        self.operators = Operators(self.transport)
        self.recycle = Recycle(self.transport)

    async def __aenter__(self) -> Session:
        await self.transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.transport.__aexit__(kind, error, trace)

    # ---- names --------------------------------------------------------------------------------------------------

    async def whoami(self) -> WhoAmI:
        return await self.transport.call("GET", f"{_API}/whoami", WhoAmI)

    async def entries(self, path: str, *, recursive: bool = False) -> AsyncIterator[Entry]:
        """What a directory holds, by name; with `recursive` everything below it. A file lists itself."""
        after = ""
        while True:
            body = ListBody(path=path, recursive=recursive, after=after, limit=LIST_LIMIT_MAX)
            page = await self.transport.call("POST", f"{_API}/list", Listing, body=body)
            for entry in page.entries:
                yield entry
            if page.next is None:
                return
            after = page.next

    async def stat(self, path: str) -> Entry:
        """What is known of a name; of a directory only that it is one. Raises NotFound."""
        wanted = normal(path)
        page = await self.transport.call("POST", f"{_API}/list", Listing, body=ListBody(path=wanted, limit=1))
        if len(page.entries) == 1 and page.entries[0].path == wanted:
            return page.entries[0]
        return Entry(path=wanted, kind="directory", mtime_ns=0, mode=0o755, owner="", group="")

    async def is_directory(self, path: str) -> bool:
        """False too for what does not exist."""
        try:
            return (await self.stat(path)).is_directory
        except NotFound:
            return False

    async def expand(self, pattern: str) -> list[Entry]:
        """The files that a pattern matches, by path; a name without wildcards is looked up. Raises NotFound."""
        if not is_glob(pattern):
            return [await self.stat(pattern)]
        base, components = split(pattern)
        directories, files = [base], list[Entry]()
        for number, component in enumerate(components):
            last, matches = number == len(components) - 1, matcher(component)
            found = [entry for directory in directories async for entry in self._children(directory)]
            found = [entry for entry in found if matches(posixpath.basename(entry.path))]
            if last:
                files = [entry for entry in found if not entry.is_directory]
            directories = [entry.path for entry in found if entry.is_directory]
        if not files:
            # A name may hold a bracket or a star.
            try:
                return [await self.stat(pattern)]
            except NotFound:
                error = NotFound(what=pattern)
                error.args = (f"No file matches {pattern}.",)
                raise error from None
        return files

    async def _children(self, directory: str) -> AsyncIterator[Entry]:
        try:
            async for entry in self.entries(directory):
                if entry.path != normal(directory):
                    yield entry
        except NotFound:
            return

    async def mkdir(
        self,
        path: str,
        *,
        parents: bool = False,
        exist_ok: bool = False,
        storage_class: str | None = None,
        mode: int = 0o755,
        mtime_ns: int | None = None,
    ) -> None:
        """Make a directory; `storage_class` is for what is put below it. Raises Exists, ParentMissing."""
        headers = {"Capstan-Mode": f"{mode:o}"}
        if storage_class is not None:
            headers["Capstan-Storage-Class"] = storage_class
        if mtime_ns is not None:
            headers["Capstan-Mtime"] = str(mtime_ns)
        call = Call(method="MKCOL", path=normal(path), headers=headers)
        try:
            await self._plain(call)
        except ParentMissing:
            if not parents:
                raise
            await self.mkdir(posixpath.dirname(normal(path)), parents=True, exist_ok=True)
            await self.mkdir(path, exist_ok=exist_ok, storage_class=storage_class, mode=mode, mtime_ns=mtime_ns)
        except Exists:
            if not (exist_ok and await self.is_directory(path)):
                raise

    async def remove(self, path: str) -> Removed:
        """Remove a file or an empty directory. Raises NotFound, NotEmpty."""
        headers = await self._plain(Call(method="DELETE", path=normal(path)))
        return Removed(
            file_id=int(headers.get("Capstan-Recycled", "0")),
            restorable_until=float(headers.get("Capstan-Recycled-Until", "0")),
        )

    async def move(self, source: str, target: str, *, replace: bool = False) -> None:
        """Rename a file or a directory. Raises NotFound, Exists."""
        headers = {"Destination": quote(normal(target), safe="/"), "Overwrite": "T" if replace else "F"}
        # After a lost answer the source is gone; a repeat would say so and mislead.
        try:
            await self._plain(Call(method="MOVE", path=normal(source), headers=headers, repeatable=False))
        except ExistsCondition as exc:
            # It speaks of the header Overwrite, which nobody here wrote.
            raise Exists(path=normal(target)) from exc

    async def _plain(self, call: Call) -> Mapping[str, str]:
        """The headers of the answer."""

        async def once() -> Mapping[str, str]:
            response = await self.transport.send(call)
            response.release()
            return response.headers

        return await self.transport.retry(once, repeatable=call.repeatable)

    # ---- bytes --------------------------------------------------------------------------------------------------

    async def put(
        self,
        local: Path,
        remote: str,
        *,
        storage_class: str | None = None,
        together: str | None = None,
        replace: bool = False,
        make_parents: bool = True,
        progress: Progress = no_progress,
    ) -> Put:
        """Store a local file under a name. The same content there already is success; other content raises Exists.

        `together`: what has the same word lies together on tape, as far as that goes; else what is in one directory.
        """
        path = normal(remote)
        headers = {} if replace else {"If-None-Match": "*"}
        if storage_class is not None:
            headers["Capstan-Storage-Class"] = storage_class
        if together is not None:
            headers["Capstan-Collocation"] = together
        try:
            return await send_file(self.transport, local, path, headers=headers, progress=progress)
        except ParentMissing:
            if not make_parents:
                raise
            await self.mkdir(posixpath.dirname(path), parents=True, exist_ok=True)
            return await send_file(self.transport, local, path, headers=headers, progress=progress)
        except ExistsCondition as exc:
            return await self._same_there(local, path, exc)

    async def _same_there(self, local: Path, path: str, refusal: ExistsCondition) -> Put:
        """412: perhaps an earlier put of the same file, whose answer was lost."""
        entry = await self.stat(path)
        if entry.is_directory or entry.size != local.stat().st_size or of_file(local) != entry.adler32:
            refusal.args = (f"{path} exists already, with other content.",)
            raise refusal
        state = "safe on tape" if entry.safe else "on disk, not yet on tape"
        stored = Stored(
            path=path,
            file_id=entry.file_id,
            size=entry.size,
            adler32=entry.adler32,
            state=state,
            storage_class=entry.storage_class,
        )
        return Put(stored=stored, already=True)

    async def get(
        self,
        remote: str,
        local: Path,
        *,
        timeout_seconds: float | None = None,
        progress: Progress = no_progress,
        on_waiting: OnWaiting = no_waiting,
    ) -> Entry:
        """Fetch a file; what is on tape is staged first, and its pin released at the end. Raises TimedOut."""
        return await self.get_entry(
            await self.stat(remote), local, timeout_seconds=timeout_seconds, progress=progress, on_waiting=on_waiting
        )

    async def get_entry(
        self,
        entry: Entry,
        local: Path,
        *,
        timeout_seconds: float | None = None,
        progress: Progress = no_progress,
        on_waiting: OnWaiting = no_waiting,
    ) -> Entry:
        """`get` of what was listed before."""
        if entry.locality not in _ON_TAPE:
            with contextlib.suppress(OnTape, NotOnline):
                await receive_file(self.transport, entry, local, progress=progress)
                return entry
        for rounds_left in reversed(range(GET_ROUNDS_MAX)):
            async with self.staging.brought(entry.path, timeout_seconds=timeout_seconds, on_waiting=on_waiting):
                try:
                    await receive_file(self.transport, entry, local, progress=progress)
                    break
                except (OnTape, NotOnline):
                    if not rounds_left:
                        raise
        return entry

    async def whereis(self, paths: Sequence[str]) -> list[FileLocation]:
        found: list[FileLocation] = []
        for start in range(0, len(paths), PATHS_MAX):
            body = WhereisBody(paths=list(paths[start : start + PATHS_MAX]))
            found += (await self.transport.call("POST", f"{_API}/whereis", Whereis, body=body)).files
        return found

    async def pin(self, owner: str, files: Sequence[int], *, lifetime_seconds: float) -> Pinned:
        body = PinsBody(owner=owner, files=list(files), lifetime_seconds=lifetime_seconds)
        return await self.transport.call("POST", f"{_API}/pins", Pinned, body=body)

    async def unpin(self, owner: str, files: Sequence[int] | None = None) -> int:
        """Drop the owner's pins on some files, or all of them; how many there were."""
        body = UnpinBody(owner=owner, files=None if files is None else list(files))
        return (await self.transport.call("DELETE", f"{_API}/pins", Unpinned, body=body)).unpinned

    # ---- events -------------------------------------------------------------------------------------------------

    async def events(self, *, after: str = "") -> AsyncIterator[Event]:
        """What happens, in order and at least once, until the caller stops; `after` is an earlier event's id."""
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            call = Call(method="GET", path=f"{_API}/events", headers=headers, silence_seconds=EVENT_SILENCE_SECONDS)
            response = await self.transport.retry(lambda call=call: self.transport.send(call))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            async with response:
                try:
                    async for event in _events_of(response):
                        after = event.id or after
                        yield event
                except (aiohttp.ClientError, TimeoutError, MaybeDone):
                    continue


async def _events_of(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line:
            name, _, value = line.partition(":")
            fields[name] = fields.get(name, "") + value.removeprefix(" ") if name == "data" else value.removeprefix(" ")
            continue
        if "data" in fields:
            data: Any = msgspec.json.decode(fields["data"])
            yield Event(id=fields.get("id", ""), kind=fields.get("event", "message"), data=data)
        fields = {}


def normal(path: str) -> str:
    """A path without doubled or final slashes; what else a path may not be, the server says."""
    return "/" + "/".join(part for part in path.split("/") if part) if path.startswith("/") else path

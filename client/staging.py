"""Bringing files to disk and waiting for it, by the WLCG Tape REST API alone; and waiting for files to be safe.

A wait shows what it waits for in the server's own sentences. It never moves the bytes; see `fetching`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec

from catalog.errors import CapstanError, NotFound, TimedOut, Unavailable
from catalog.units import show_about
from client.messages import (
    PATHS_MAX,
    ArchiveInfo,
    ArchiveWait,
    ArchiveWaitBody,
    ArchiveWaitFile,
    Explanation,
    Paths,
    StageAccepted,
    StageBody,
    StageFile,
    StageFileProgress,
    StageProgress,
)
from client.operatormessages import WholeVolumeBody, WholeVolumePart
from client.transport import Transport

POLL_SECONDS_MIN = 0.5
POLL_SECONDS_MAX = 5.0
POLL_GROWTH = 1.3
STAGE_FILES_PER_REQUEST = 100_000
#: a hundred thousand files are looked up before the answer
VOLUME_SILENCE_SECONDS = 600.0
#: the pin of a `tget` outlives a broken connection, and is released when it is done
GET_PIN_SECONDS = 3600.0
TERMINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
#: states of archive-wait that do not become safe by waiting
_HOPELESS = frozenset({"lost", "not_found", "denied", "bad_path", "is_a_directory"})
#: what a sentence of an explanation holds that tells of waiting
_OF_WAITING = (" waits ", " wanted from ", " being read ", " being written ")
_EXPECTED = (" expected on disk in ", " expected on tape in ")
_ITS_TIME = re.compile(r" It is expected on tape in [^.]*\.")

OnWaiting = Callable[[str], None]


def no_waiting(_: str) -> None:
    """For who does not watch."""


class NeverSafe(CapstanError):
    """{path} cannot become safe: {why}."""

    code = "never_safe"


class StageFailed(CapstanError):
    """{path} could not be brought to disk: {why}"""

    code = "stage_failed"


class Staging:
    """Stage requests, archiveinfo and waiting, over a session's transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def request(
        self,
        paths: Sequence[str],
        *,
        lifetime_seconds: float | None = None,
        activity: str | None = None,
        priority: int | None = None,
        cohorts: Mapping[str, str] | None = None,
    ) -> str:
        """Ask for files on disk, pinned for their lifetime; the request's id. Errors are per file: see `progress`.

        `cohorts` (path -> label): files that are of use only together have the same label, in whatever requests of
        this owner; those without one are a request's own. `priority` is bounded by what the server grants.
        Repeated after a lost answer: a request that nobody knows of only holds pins until they run out.
        """
        lifetime = None if lifetime_seconds is None else f"PT{max(1, round(lifetime_seconds))}S"
        whole = {} if activity is None else {"default": {"activity": activity}}
        ours = {} if priority is None else {"priority": priority}
        files = []
        for path in paths:
            label = cohorts.get(path) if cohorts else None
            own = ours if label is None else {**ours, "cohort": label}
            metadata = {**whole, "capstan": own} if own else whole
            files.append(StageFile(path=path, disk_lifetime=lifetime, targeted_metadata=metadata or None))
        accepted = await self._transport.call("POST", "/api/v1/stage", StageAccepted, body=StageBody(files=files))
        return accepted.request_id

    async def volume(self, volume: str, wanted: WholeVolumeBody) -> AsyncIterator[WholeVolumePart]:
        """Everything on a volume, or what is worth reading of it, as one request after another; each as it is made.

        `wanted.bytes_max` is for all of them together. Raises NotFound; MaybeDone when an answer was lost: the request
        it may have made holds pins until they run out.
        """
        left = wanted.bytes_max
        while True:
            part = await self._transport.call(
                "POST",
                f"/api/capstan/v1/volumes/{volume}/stage",
                WholeVolumePart,
                body=msgspec.structs.replace(wanted, bytes_max=left),
                repeatable=False,
                silence_seconds=VOLUME_SILENCE_SECONDS,
            )
            yield part
            if part.next is None:
                return
            left = None if left is None else left - part.bytes
            wanted = msgspec.structs.replace(wanted, after=part.next, chance=part.chance)

    async def progress(self, request_id: str) -> StageProgress:
        return await self._transport.call("GET", f"/api/v1/stage/{request_id}", StageProgress)

    async def cancel(self, request_id: str, paths: Sequence[str] | None = None) -> None:
        """Cancel some files of a request, or all of them. Raises NotInRequest, and then cancelled none."""
        if paths is None:
            paths = [file.path for file in (await self.progress(request_id)).files]
        await self._empty(f"/api/v1/stage/{request_id}/cancel", paths)

    async def delete(self, request_id: str) -> None:
        """Cancel and forget the request; one that is gone already is no error."""
        try:
            await self._transport.call("DELETE", f"/api/v1/stage/{request_id}", object)
        except NotFound:
            return

    async def release(self, request_id: str, paths: Sequence[str]) -> None:
        """Drop the pins that a request holds on these files."""
        for start in range(0, len(paths), STAGE_FILES_PER_REQUEST):
            await self._empty(f"/api/v1/release/{request_id}", paths[start : start + STAGE_FILES_PER_REQUEST])

    async def _empty(self, path: str, paths: Sequence[str]) -> None:
        # The standard says "200 empty"; servers that send an empty object are understood too.
        await self._transport.call("POST", path, object, body=Paths(paths=list(paths)))

    async def archiveinfo(self, paths: Sequence[str]) -> list[ArchiveInfo]:
        found: list[ArchiveInfo] = []
        for start in range(0, len(paths), PATHS_MAX):
            body = Paths(paths=list(paths[start : start + PATHS_MAX]))
            found += await self._transport.call("POST", "/api/v1/archiveinfo", list[ArchiveInfo], body=body)
        return found

    async def explain(self, object_: str) -> Explanation:
        """Sentences on a path, request:N, job:N, volume:VID or a VID."""
        query = {"object": object_}
        return await self._transport.call("GET", "/api/capstan/v1/explain", Explanation, query=query)

    async def wait(
        self, request_id: str, *, timeout_seconds: float | None = None, on_waiting: OnWaiting = no_waiting
    ) -> AsyncIterator[StageFileProgress]:
        """Each file of a request once, as it becomes terminal. Raises TimedOut, saying what it waited for."""
        seen: set[str] = set()
        async for sentence in self._paced(f"request:{request_id}", f"request {request_id}", timeout_seconds):
            on_waiting(sentence)
            progress = await self.progress(request_id)
            for file in progress.files:
                if file.path not in seen and (file.error is not None or file.state in TERMINAL_STATES):
                    seen.add(file.path)
                    yield file
            if len(seen) >= len({file.path for file in progress.files}):
                return

    @contextlib.asynccontextmanager
    async def brought(
        self, path: str, *, timeout_seconds: float | None = None, on_waiting: OnWaiting = no_waiting
    ) -> AsyncIterator[None]:
        """A file on disk and pinned while the block runs. Raises StageFailed, TimedOut."""
        async with self.pinned([path]) as request_id:
            async for file in self.wait(request_id, timeout_seconds=timeout_seconds, on_waiting=on_waiting):
                check_staged(file)
            yield

    @contextlib.asynccontextmanager
    async def pinned(self, paths: Sequence[str]) -> AsyncIterator[str]:
        """A request of one's own while the block runs; its id. Done: its pins are released. Broken off: cancelled,
        so that no tape is mounted for nobody."""
        request_id = await self.request(paths, lifetime_seconds=GET_PIN_SECONDS)
        try:
            yield request_id
        except BaseException:
            # What broke the block off is the news; the pins run out by themselves.
            with contextlib.suppress(CapstanError):
                await self.delete(request_id)
            raise
        with contextlib.suppress(CapstanError):
            await self.release(request_id, paths)

    async def archive_state(self, paths: Sequence[str]) -> list[ArchiveWaitFile]:
        """Where each file stands on its way to tape; those not safe become urgent."""
        found: list[ArchiveWaitFile] = []
        for start in range(0, len(paths), PATHS_MAX):
            body = ArchiveWaitBody(paths=list(paths[start : start + PATHS_MAX]))
            answer = await self._transport.call("POST", "/api/capstan/v1/archive-wait", ArchiveWait, body=body)
            found += answer.files
        return found

    async def wait_safe(
        self, paths: Iterable[str], *, timeout_seconds: float | None = None, on_waiting: OnWaiting = no_waiting
    ) -> None:
        """Until every file has all its copies on tape. Raises TimedOut; NeverSafe for one that is lost or gone."""
        waiting = list(dict.fromkeys(paths))
        if not waiting:
            return
        what = "1 file on its way to tape" if len(waiting) == 1 else f"{len(waiting)} files on their way to tape"
        async for _ in self._paced(waiting[0], what, timeout_seconds):
            states = await self.archive_state(waiting)
            for file in states:
                if not file.safe and file.state in _HOPELESS:
                    raise NeverSafe(path=file.path, why=file.reason or file.state)
            waiting = [file.path for file in states if not file.safe]
            if not waiting:
                return
            on_waiting(_not_yet_safe([file for file in states if not file.safe]))

    async def _paced(self, object_: str, what: str, timeout_seconds: float | None) -> AsyncIterator[str]:
        """What is waited for, at growing pauses, until the time is over."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause, sentence = POLL_SECONDS_MIN, ""
        while True:
            yield sentence
            sentence = await self._sentence(object_) or sentence
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise _timed_out(what, timeout_seconds or 0.0, sentence)
            await asyncio.sleep(min(pause, left))
            pause = min(pause * POLL_GROWTH, POLL_SECONDS_MAX)

    async def _sentence(self, object_: str) -> str:
        """An explanation is a courtesy: without one the wait goes on all the same."""
        try:
            explanation = await self.explain(object_)
        except (NotFound, Unavailable):
            return ""
        return _the_wait(explanation.sentences)


def _the_wait(sentences: Sequence[str]) -> str:
    """Of an explanation until when it waits, where that is said apart, and for what; else its beginning.

    A line of a terminal is short: the time comes first.
    """
    told = [sentence for sentence in sentences if any(word in sentence for word in _OF_WAITING)]
    until = [sentence for sentence in sentences if any(word in sentence for word in _EXPECTED)]
    return " ".join(dict.fromkeys([*until[:1], *[*told, *sentences][:1]]))


def _not_yet_safe(files: Sequence[ArchiveWaitFile]) -> str:
    """How many are on their way to tape, until when all of them are, where that is known, and why one of them waits."""
    known = [file.expected_seconds for file in files if file.expected_seconds is not None]
    last = "the last is " if len(files) > 1 else ""
    until = f", {last}expected on tape in {show_about(max(known))}" if len(known) == len(files) else ""
    # The time of that one is said already, or says nothing of the others.
    reason = _ITS_TIME.sub("", next((file.reason for file in files if file.reason), ""))
    return f"{len(files)} not yet safe{until}" + (f": {reason}" if reason else "")


def _timed_out(what: str, seconds: float, sentence: str) -> TimedOut:
    error = TimedOut(what=what, seconds=f"{seconds:.3g}")
    if sentence:
        error.args = (f"{error} {sentence}",)
    return error


def check_staged(file: StageFileProgress) -> None:
    """Raises StageFailed for a terminal file that is not on disk."""
    if file.error is not None or file.state != "COMPLETED":
        raise StageFailed(path=file.path, why=file.error or (file.state or "no state").lower())

"""Many files at a time, either way: in parallel, what is on tape asked for in one request, one outcome per file.

A file that fails stops no other. Which files is the caller's to say; one file's bytes are moved by `transfer`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from catalog.errors import CapstanError
from client.messages import Entry
from client.session import Session
from client.staging import STAGE_FILES_PER_REQUEST, OnWaiting, check_staged, no_waiting
from client.transfer import Progress, no_progress

T = TypeVar("T")

PARALLEL = 4
_TAPE = frozenset({"TAPE", "UNAVAILABLE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A stored file and where it shall be."""

    entry: Entry
    local: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one of `Wanted`; `error` None: it is there, whole and verified."""

    wanted: Wanted
    error: Exception | None = None


@dataclass(slots=True, kw_only=True)
class Fetch:
    """One run of `fetch`: settings, and the outcomes as they come."""

    session: Session
    parallel: int = PARALLEL
    timeout_seconds: float | None = None
    progress: Progress = no_progress
    on_waiting: OnWaiting = no_waiting
    on_outcome: Callable[[Outcome], None] = lambda _: None
    outcomes: list[Outcome] = field(default_factory=list)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    _deadline: float | None = None

    async def run(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Fetch all; files on disk at once, those on tape as they arrive."""
        self._slots = asyncio.Semaphore(self.parallel)
        self._deadline = None if self.timeout_seconds is None else time.monotonic() + self.timeout_seconds
        on_tape = [one for one in wanted if one.entry.locality in _TAPE and one.entry.size]
        on_disk = [one for one in wanted if not (one.entry.locality in _TAPE and one.entry.size)]
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(on_tape), STAGE_FILES_PER_REQUEST):
                group.create_task(self._staged(on_tape[start : start + STAGE_FILES_PER_REQUEST]), name="fetch-staged")
            await each(on_disk, self._one, parallel=self.parallel)
        return self.outcomes

    async def _staged(self, wanted: Sequence[Wanted]) -> None:
        waiting: dict[str, list[Wanted]] = {}
        for one in wanted:
            waiting.setdefault(one.entry.path, []).append(one)
        try:
            async with self.session.staging.pinned(list(waiting)) as request_id, asyncio.TaskGroup() as group:
                async for file in self.session.staging.wait(
                    request_id, timeout_seconds=self._left(), on_waiting=self.on_waiting
                ):
                    for one in waiting.pop(file.path, []):
                        try:
                            check_staged(file)
                        except CapstanError as exc:
                            self._ended(one, exc)
                        else:
                            entry = msgspec.structs.replace(one.entry, locality="DISK_AND_TAPE")
                            now = Wanted(entry=entry, local=one.local)
                            group.create_task(self._one(now), name=f"fetch {entry.path}")
        except BaseExceptionGroup as exc:
            raise exc.exceptions[0] from exc
        except CapstanError as exc:
            # The wait is over (time, or no door): what has not come will not.
            for one in [one for ones in waiting.values() for one in ones]:
                self._ended(one, exc)

    async def _one(self, one: Wanted) -> None:
        async with self._slots:
            try:
                await self.session.get_entry(
                    one.entry,
                    one.local,
                    timeout_seconds=self._left(),
                    progress=self.progress,
                    on_waiting=self.on_waiting,
                )
            except (CapstanError, OSError) as exc:
                self._ended(one, exc)
            else:
                self._ended(one)

    def _ended(self, one: Wanted, error: Exception | None = None) -> None:
        outcome = Outcome(wanted=one, error=error)
        self.outcomes.append(outcome)
        self.on_outcome(outcome)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


async def each(items: Sequence[T], work: Callable[[T], Awaitable[None]], *, parallel: int) -> None:
    """`work` on every item, at most `parallel` at a time, begun in order; an exception stops the rest."""

    # One iterator shared by all workers: each takes the next item when it is free.
    pending = iter(items)

    async def worker() -> None:
        for item in pending:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(parallel, len(items))):
            group.create_task(worker())

"""What a batch system must be able to do for held jobs, and the words it is done in.

This is the whole contract; each module beside this one keeps it for one system, and tests/contract/test_batch.py runs
the same promises against every one. It says nothing of files, tapes or tokens: those are the pre-stager's.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

#: higher starts first, among the jobs that are released
PRIORITY_NORMAL, PRIORITY_HIGH = 50, 100

Stream = Literal["stdout", "stderr"]


class BatchState(enum.StrEnum):
    #: known, will not start before it is released
    HELD = "held"
    #: released; starts when a slot is free
    QUEUED = "queued"
    #: its start is decided and recorded: from here on it can no longer be held
    STARTING = "starting"
    RUNNING = "running"
    #: its program ended by itself: `exit_code` or `signal` is set
    ENDED = "ended"
    CANCELLED = "cancelled"
    #: it was started, and how it ended is unknown; it is never started again
    LOST = "lost"


ENDED_STATES = frozenset({BatchState.ENDED, BatchState.CANCELLED, BatchState.LOST})

#: allowed steps; the database of the local system refuses the others too
MOVES: dict[BatchState, frozenset[BatchState]] = {
    BatchState.HELD: frozenset({BatchState.QUEUED, BatchState.CANCELLED}),
    BatchState.QUEUED: frozenset({BatchState.HELD, BatchState.STARTING, BatchState.CANCELLED}),
    BatchState.STARTING: frozenset({BatchState.RUNNING, *ENDED_STATES}),
    BatchState.RUNNING: ENDED_STATES,
    **{ended: frozenset() for ended in ENDED_STATES},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """What to run. `key` is ours and unique for ever (job id and attempt); `[A-Za-z0-9._-]{1,100}`."""

    key: str
    name: str
    #: the program and its arguments; no shell looks at them
    argv: tuple[str, ...]
    #: the whole environment of the program: nothing else is added
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    native_id: str
    key: str
    state: BatchState
    exit_code: int | None = None
    signal: int | None = None
    #: a sentence where the state alone does not tell ("the program 'x' was not found"), else empty
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    name: str
    #: jobs that run at once; None where the system decides
    slots: int | None
    argv_bytes_max: int
    #: kept of each of stdout and stderr; what is beyond is dropped, with a note at the end
    output_bytes_max: int
    #: jobs run as the server's own user, so only the token recorded on this machine may submit
    runs_as_server: bool


class BatchSystem(Protocol):
    """One batch system. All methods raise Unavailable when the system does not answer (try again later).

    An id that the system does not know raises NotFound, but in `status_many`, which leaves it out: after a crash of
    the system an id may be gone or belong to somebody else's job, so an answer counts only when its `key` is ours.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def submit_held(self, spec: BatchSpec) -> str:
        """Make the job known, held; its native id. It will start in an empty directory of its own.

        Safe to repeat: a key that is known already gives the id of the first, whatever became of that job.
        Raises TooLarge for an argv beyond the limit, BadRequest for what can never run. Durable when it returns.
        """

    async def release(self, native_id: str, *, priority: int) -> None:
        """Let it start. Higher priorities start first, equal ones in the order of their release.

        Safe to repeat; repeated while it waits, the priority is changed. Does nothing once it has started or ended.
        """

    async def hold(self, native_id: str) -> None:
        """Take a release back. Safe to repeat. Raises WrongState once its start is decided, or it has ended."""

    async def cancel(self, native_id: str) -> None:
        """End it: not started, it never will; running, its processes get SIGTERM, after a while SIGKILL.

        Returns when this is decided, not when it has ended. Safe to repeat; does nothing to a job that has ended.
        Touches no process but those that the job itself started.
        """

    async def status_many(self, native_ids: Collection[str]) -> dict[str, BatchStatus]:
        """What is known of each, in one question to the system however many; unknown ones are left out."""

    async def output(self, native_id: str, which: Stream, *, offset: int, bytes_max: int) -> bytes:
        """Up to `bytes_max` bytes of what it wrote so far, from byte `offset` on; empty when there is no more (yet).

        Works while it runs. Once the state has ended, the output is complete.
        """

    async def forget(self, native_id: str) -> None:
        """Delete what is kept of an ended job: output, directory, record. Safe to repeat, also when unknown.

        Raises WrongState while it has not ended.
        """

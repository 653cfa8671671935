"""The states of a job and the steps between them. Pure; the database holds the same table and refuses the rest."""

from __future__ import annotations

import enum


class JobState(enum.StrEnum):
    #: promised to its user; the batch system may not know it yet
    ACCEPTED = "accepted"
    #: held in the batch system; its turn to be staged has not come
    HELD = "held"
    #: its inputs are pinned for it, and those not on disk are being brought
    STAGING = "staging"
    #: all inputs are on disk and pinned: its release is decided
    READY = "ready"
    #: the batch system may start it
    RELEASED = "released"
    RUNNING = "running"
    #: its program ended with exit code 0
    DONE = "done"
    #: it ended otherwise, was lost, or can never run; `reason` says which
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = JobState
ENDED_STATES = frozenset({_S.DONE, _S.FAILED, _S.CANCELLED})
#: not started yet, as far as is known
WAITING_STATES = frozenset({_S.ACCEPTED, _S.HELD, _S.STAGING, _S.READY, _S.RELEASED})

MOVES: dict[JobState, frozenset[JobState]] = {
    _S.ACCEPTED: frozenset({_S.HELD, _S.FAILED, _S.CANCELLED}),
    _S.HELD: frozenset({_S.STAGING, _S.FAILED, _S.CANCELLED}),
    # Back to held: what it waits for cannot come now, and another could use the space.
    _S.STAGING: frozenset({_S.HELD, _S.READY, _S.FAILED, _S.CANCELLED}),
    # Back to staging: a replica was lost before the job began.
    _S.READY: frozenset({_S.STAGING, _S.RELEASED, _S.FAILED, _S.CANCELLED}),
    _S.RELEASED: frozenset({_S.STAGING, _S.RUNNING, *ENDED_STATES}),
    _S.RUNNING: ENDED_STATES,
    **{ended: frozenset() for ended in ENDED_STATES},
}

"""The queues to and from tape, under one name: recalls, archives, counters.

Only the doors to them; each is its own module. What the failure of a recall or the end of a mount means for everybody
who waits is in `catalog.endings`, which also knows staging and replicas; they ask this module for work.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog.archives import (
    ClaimedArchive,
    claim_archives,
    drop_archives,
    enqueue_archives,
    enqueue_rewrites,
    fail_archives,
    fail_over_archives,
    make_urgent,
    release_archives,
    release_unknown,
    retry_archives,
)
from catalog.counters import Backlog, Change, Drift, backlog, counters, drift, fold_deltas, lock_folds
from catalog.recalls import (
    Answer,
    ClaimedRecall,
    RecallAnswer,
    WantedRecall,
    abandon_recalls,
    claim_recalls,
    drop_recalls,
    finish_recalls,
    request_recalls,
    retry_recalls,
    wanted_recalls,
)
from catalog.written import DeadExtent, Written, commit_written, forget_homes


async def retry_held(connection: AsyncConnection, *, kind: str = "all") -> int:
    """An operator's "now": `kind` archives, recalls or all; held rows start anew, those in back-off at once."""
    retried = await retry_archives(connection) if kind in ("archives", "all") else 0
    return retried + (await retry_recalls(connection) if kind in ("recalls", "all") else 0)


__all__ = [
    "Answer",
    "Backlog",
    "Change",
    "ClaimedArchive",
    "ClaimedRecall",
    "DeadExtent",
    "Drift",
    "RecallAnswer",
    "WantedRecall",
    "Written",
    "abandon_recalls",
    "backlog",
    "claim_archives",
    "claim_recalls",
    "commit_written",
    "counters",
    "drift",
    "drop_archives",
    "drop_recalls",
    "enqueue_archives",
    "enqueue_rewrites",
    "fail_archives",
    "fail_over_archives",
    "finish_recalls",
    "fold_deltas",
    "forget_homes",
    "lock_folds",
    "make_urgent",
    "release_archives",
    "release_unknown",
    "request_recalls",
    "retry_archives",
    "retry_held",
    "retry_recalls",
    "wanted_recalls",
]

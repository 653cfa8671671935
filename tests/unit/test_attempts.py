"""Promises of what is tried again and again: one failure is logged and holds nobody up, and a cancellation is none."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from catalog.attempts import attempt
from catalog.errors import CatalogUnreachable


async def failing(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "event", "level"),
    [
        (CatalogUnreachable(why="down"), "work not done", "warning"),
        (OSError("disk"), "work not done", "warning"),
        (ValueError("ours"), "work failed", "error"),
    ],
)
async def test_what_fails_is_told_by_whose_fault_it_is(error: Exception, event: str, level: str) -> None:
    with structlog.testing.capture_logs() as said:
        assert not await attempt("alerts", lambda: failing(error), epoch=7)
    [line] = said
    assert (line["event"], line["log_level"], line["work"], line["epoch"]) == (event, level, "alerts", 7)


async def test_what_goes_through_says_nothing_and_what_is_cancelled_is_cancelled() -> None:
    with structlog.testing.capture_logs() as said:
        assert await attempt("rest", lambda: asyncio.sleep(0))
        with pytest.raises(asyncio.CancelledError):
            await attempt("rest", lambda: failing(asyncio.CancelledError()))
    assert said == []

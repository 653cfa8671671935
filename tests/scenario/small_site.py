"""A site of a test module's own, with its `capstan.toml`, and the small things that its tests share."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from capstan.demo.site import Site, SiteError
from catalog.database import Database
from tests.scenario.soak_rest import database_url

T = TypeVar("T")
#: nets, for a machine that is busy with other things
START_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 120.0
#: what a person is promised after Ctrl-C
ORDERLY_STOP_SECONDS = 5.0


def orderly_stop_seconds_max() -> float:
    """Five seconds; where more wants to run than there are processors, as much longer as everything takes there."""
    return ORDERLY_STOP_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextmanager
def small_site(configuration: str) -> Iterator[Site]:
    """It runs until left. With CAPSTAN_TEST_KEEP set its directory stays, for a look at it."""
    # Not pytest's tmp_path: that lies below a directory of mode 700, which PostgreSQL's user cannot enter.
    directory = Path(tempfile.mkdtemp(prefix="capstan-scenario-"))
    made = Site(directory)
    made.data.mkdir()
    (made.data / "capstan.toml").write_text(configuration)
    try:
        made.start()
        yield made
    finally:
        if os.environ.get("CAPSTAN_TEST_KEEP"):
            with suppress(SiteError):
                made.stop()
        else:
            made.remove()
            shutil.rmtree(directory, ignore_errors=True)


def soon(check: Callable[[], T], *, seconds: float, what: str = "") -> T:
    """The first true answer of `check`; AssertionError when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or check}; the last answer: {answer!r}"
        time.sleep(0.05)


def query(site: Site, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """What the catalog says, read past the servers."""

    async def ask() -> list[tuple[Any, ...]]:
        async with Database(database_url(site.data), connections_max=1) as database, database.connection() as found:
            return [tuple(row) for row in await found.execute(sa.text(statement), values)]

    return asyncio.run(ask())


def change(site: Site, statement: str, **values: Any) -> None:
    async def do() -> None:
        async with Database(database_url(site.data), connections_max=1) as database, database.transaction() as found:
            await found.execute(sa.text(statement), values)

    asyncio.run(do())

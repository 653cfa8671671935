"""Any process killed at any moment, in any order, under load: nothing acknowledged is lost, stuck, doubled or leaked.

CAPSTAN_TEST_SEED=N repeats the kills and the load of an earlier run; CAPSTAN_KILL_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from capstan.demo.site import Site, SiteError
from catalog.database import Database
from catalog.errors import NotFound
from client.locations import Door
from client.session import Session
from tests.scenario import kill_rest, victims
from tests.scenario.kill_load import Load
from tests.scenario.kill_model import Seen
from tests.scenario.small_site import small_site

SECONDS = float(os.environ.get("CAPSTAN_KILL_SECONDS", "15"))
pytestmark = pytest.mark.timeout(SECONDS + 300)

#: at rest so long after the last kill
REST_SECONDS_MAX = 60.0
#: the killer gives a killed process at most so long to serve again
SERVING_SECONDS_MAX = 10.0
KINDS = ("tapeserver", "mover", "cacheserver", "jobserver", "postgresql", "backend")
#: quick mounts, and pauses that fit a test; nothing here weakens a promise
CONFIGURATION = """
[tapeserver]
collecting_age_seconds = 0.5
cooldown_seconds = 0.5
dismount_delay_seconds = 0.2
planning_interval_seconds = 0.3
backoff_seconds = 0.5
lease_seconds = 4
flush_files = 10
flush_seconds = 1

[cacheserver]
capacity_bytes = 2_000_000_000
free_bytes_min = 100_000_000

[jobserver]
slots = 2

[[libraries]]
name = "east"
vid_prefix = "E"
cartridges = 3

[[libraries]]
name = "west"
vid_prefix = "W"
cartridges = 3
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with small_site(CONFIGURATION) as made:
        yield made


def kill_at_random(site: Site, seed: int, seconds: float) -> list[str]:
    """Kill one or several of the site's processes every 0.5 to 2 s, and all of `capstan up` at least once."""
    chance = random.Random(seed)
    began, told = time.monotonic(), list[str]()
    whole_at = seconds * chance.uniform(0.3, 0.7)
    while (now := time.monotonic() - began) < seconds:
        if now > whole_at:
            whole_at += max(30.0, seconds * chance.uniform(0.2, 0.5))
            site.kill()
            time.sleep(chance.choice((0.0, 0.0, 1.0)))
            told.append(f"{now:.1f} s: capstan up, back after {site.start():.1f} s")
        for kind in chance.sample(KINDS, chance.choices((1, 2, 3), (6, 3, 1))[0]):
            told.append(
                f"{time.monotonic() - began:.1f} s: {kind} {victims.kill(site, kind, chance) or 'was not there'}"
            )
        time.sleep(chance.uniform(0.5, 2.0))
        if chance.random() < 0.7:
            # Kills of what is only just starting are worth having too, but not all the time: then there is no load.
            wait_for_the_door(site, SERVING_SECONDS_MAX)
    return told


def wait_for_the_door(site: Site, seconds_max: float) -> None:
    began = time.monotonic()
    while time.monotonic() - began < seconds_max:
        with suppress(OSError, HTTPException, SiteError):
            if site.call("GET", "/api/capstan/v1/status", timeout_seconds=2.0)["ok"]:
                return
        time.sleep(0.1)


def test_whoever_is_killed_under_load_nothing_is_lost_stuck_doubled_or_leaked(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("CAPSTAN_TEST_SEED") or random.SystemRandom().randrange(1_000_000))
    with capsys.disabled():
        print(f"\n[kill test: CAPSTAN_TEST_SEED={seed} CAPSTAN_KILL_SECONDS={SECONDS:g}] ", end="", flush=True)
    load = Load(site.url, site.token, seed, tmp_path)
    asyncio.run(load.prepare())
    thread = threading.Thread(target=load.run, name="load")
    thread.start()
    try:
        told = kill_at_random(site, seed, SECONDS)
    finally:
        load.stop.set()
        thread.join()
    print("\n".join([f"seed {seed}", *told, *map(str, sorted(load.counts.items()))]))
    # Both killed in one go, or one soon after the other.
    forgotten_max = min(sum(kind in line for line in told) for kind in ("postgresql", "cacheserver"))
    asyncio.run(check(site, load, tmp_path, forgotten_max))


async def check(site: Site, load: Load, directory: Path, forgotten_max: int) -> None:
    async with Database(kill_rest.database_url(site.data)) as database:
        await kill_rest.let_leases_run_out(database)
        await kill_rest.rest(database, seconds_max=REST_SECONDS_MAX)
        cache = site.data / "cache"
        mistakes = list(load.surprises) + await kill_rest.mistakes(database, cache, forgotten_max=forgotten_max)
        doors = (Door(url=site.url, token=site.token),)
        async with Session(doors) as session:
            mistakes += await wrong_names(session, load)
            mistakes += await wrong_requests(session, load)
            mistakes += await wrong_jobs(session, load)
            mistakes += await wrong_bytes(session, load, directory)
            dropped = await session.operators.drop(["/base", "/kill"], wait=True)
            if kept := {why: count for why, count in dropped.kept_count.items() if "pin" not in why}:
                mistakes.append(f"safe files that stay in the cache: {kept}")
            mistakes += await wrong_bytes(session, load, directory)
        await kill_rest.rest(database, seconds_max=REST_SECONDS_MAX)
        mistakes += await kill_rest.mistakes(database, cache, forgotten_max=forgotten_max)
    assert not mistakes, "\n".join(mistakes)


async def wrong_names(session: Session, load: Load) -> list[str]:
    """The listing against what was acknowledged: name, size and checksum."""
    found: dict[str, Seen] = {}
    for root in ("/base", "/kill"):
        with suppress(NotFound):
            async for entry in session.entries(root, recursive=True):
                if not entry.is_directory:
                    found[entry.path] = entry.size, entry.adler32
    mistakes = [mistake for names in load.names.values() for mistake in names.wrong(found)]
    mistakes += [f"{path} is {found.get(path)}" for path, one in load.base.items() if found.get(path) != one.seen]
    known = set(load.base).union(*(names.known() for names in load.names.values()))
    return mistakes + [f"{path}: nobody put that" for path in found.keys() - known]


async def wrong_bytes(session: Session, load: Load, directory: Path) -> list[str]:
    """Every acknowledged file is read back, from disk or from tape, and compared byte for byte."""
    paths = dict(load.base)
    for names in load.names.values():
        paths |= names.certain
    mistakes = []
    async with session.staging.pinned(sorted(paths)) as request:
        async for file in session.staging.wait(request, timeout_seconds=REST_SECONDS_MAX + SECONDS):
            if file.state != "COMPLETED":
                mistakes.append(f"{file.path} does not come back: {file.state} {file.error}")
                continue
            await session.get(file.path, directory / "back")
            if (directory / "back").read_bytes() != paths[file.path].bytes():
                mistakes.append(f"{file.path} reads back with other bytes")
    return mistakes


async def wrong_requests(session: Session, load: Load) -> list[str]:
    mistakes = []
    for request in sorted(load.requests):
        try:
            progress = await session.staging.progress(request)
        except NotFound:
            continue  # deleted by a request whose answer was lost
        mistakes += [
            f"request {request}, {file.path}: {file.state} {file.error}"
            for file in progress.files
            if file.state not in ("COMPLETED", "CANCELLED")
        ]
    return mistakes


async def wrong_jobs(session: Session, load: Load) -> list[str]:
    """Each ran at most once; one that the job server calls done told the right sum, and none is unknown to it."""
    known = {job.name: job async for job in session.jobs.list()}
    mistakes = []
    for key, (ledger, total, answered) in load.jobs.items():
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        job = known.get(key)
        if lines.count("began") > 1:
            mistakes.append(f"{key} ran {lines.count('began')} times: {lines}")
        if job is None:
            if answered is not None or lines:
                mistakes.append(f"{key} was accepted as {answered} and is unknown; it told {lines}")
        elif job.state == "done":
            if lines != ["began", f"ended {total}"]:
                mistakes.append(f"{key} is done and told {lines}, wanted {total}")
        elif job.state != "failed" or "lost" not in job.reason:
            mistakes.append(f"{key} is {job.state} ({job.reason}), exit code {job.exit_code}; it told {lines}")
    return mistakes

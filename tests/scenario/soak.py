"""The fault soak: a site under load and under fire for as long as asked, then everything that was promised is checked.

    python -m tests.scenario.soak --seconds 3600 --seed 17

Rounds: users work (`soak_load`) while processes, media, drives and the clock fail (`soak_faults`); then the faults end,
the site comes to rest, and is compared with what was acknowledged (`soak_model`), with itself (`soak_rest`), and with
what an independent reader finds on the cartridges (`soak_tapes`). All the while an operator's long work goes on
(`soak_operator`); between rounds a volume is emptied for good and the catalog restored from a backup
(`soak_recovery`); at the end the database is set aside and made again from the tapes (`soak_rebuild`). The seed
repeats the steps, not their timing.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa
import stamina

from capstan.demo.site import Site, SiteError
from catalog.database import Database
from catalog.errors import CapstanError, NotFound
from client.locations import Door
from client.session import Session
from tapeserver.library import faults
from tests.scenario import soak_rebuild, soak_rest, soak_tapes
from tests.scenario.small_site import small_site
from tests.scenario.soak_faults import ALWAYS, STEPS, Chaos, clock_goes_on, rage, wait_for_the_door, ways_out
from tests.scenario.soak_load import Load
from tests.scenario.soak_model import Seen, adler32
from tests.scenario.soak_operator import FIRST, Operator
from tests.scenario.soak_recovery import RECOVERY

#: at rest so long after the last fault, and serving; on a slow machine too, where it is only a net
REST_SECONDS_MAX = 300.0
#: the operator looks again so long after the faults ended: what they did may come to light late
WAYS_OUT_SECONDS = (0.0, 3.0, 10.0, 20.0, 40.0)
ROUND_SECONDS_MAX = 60.0
#: a run of this length also puts files of 100 MB
LARGE_SECONDS_MIN = 300.0
LIBRARIES = ("east", "west")
#: quick mounts, and limits that fit a test; nothing here weakens a promise
CONFIGURATION = """
[tapeserver]
collecting_age_seconds = 0.5
bundle_seconds = 0.5
flush_idle_seconds = 0.2
cooldown_seconds = 0.5
cooldown_seconds_max = 4
dismount_delay_seconds = 0.2
planning_interval_seconds = 0.3
backoff_seconds = 0.5
lease_seconds = 4
flush_files = 10
flush_seconds = 1
housekeeping_seconds = 2
drive_silence_seconds = 5
mover_silence_seconds = 5
phase_seconds_max = 5
load_seconds_max = 15
changer_seconds_max = 10
stop_seconds = 10
recycle_days = 0
maintenance_seconds = 0.5
journal_seconds = 2
journal_archive_seconds = 10

[cacheserver]
capacity_bytes = 6_000_000_000
free_bytes_min = 100_000_000

[jobserver]
slots = 2

[[libraries]]
name = "east"
vid_prefix = "E"
cartridges = {cartridges}
system_cartridges = 4
capacity = "500 MB"

[[libraries]]
name = "west"
vid_prefix = "W"
cartridges = {cartridges}
system_cartridges = 4
capacity = "500 MB"
"""


class Failed(AssertionError):
    """Something that was promised is not so; the message has the seed, what is wrong, and the last steps."""


class Soak:
    """One run. `say` gets a line for each thing done."""

    def __init__(self, site: Site, seed: int, directory: Path, *, large: bool, say: Callable[[str], None]) -> None:
        self.site, self.seed, self.directory = site, seed, directory
        self.chance = random.Random(seed)
        self.history: list[str] = []
        self._say = say
        self.load = Load(site.url, site.token, seed, directory, large_weight=0.3 if large else 0.0)
        self.chaos = Chaos(site, self.chance, LIBRARIES[0])
        self.operator = Operator(site, random.Random(seed + 1), self.say)
        self.steps = 0
        #: of replicas that a restored catalog does not know
        self.quarantined = 0

    def say(self, line: str) -> None:
        self.history.append(line)
        self._say(line)

    def run(self, seconds: float, steps: Sequence[str] = tuple(STEPS)) -> None:
        """Raises Failed."""
        began = time.monotonic()
        asyncio.run(self.load.prepare())
        self.site.run(["tmkdir", "/restored"])
        rounds = 0
        while rounds == 0 or time.monotonic() - began < seconds:
            self.chaos.library = LIBRARIES[rounds % 2] if rounds else self.chance.choice(LIBRARIES)
            self.operator.library = self.chaos.library
            self.say(f"-- round {rounds}, {time.monotonic() - began:.0f} s: {self.chaos.library} has the faults")
            self.round(min(seconds, ROUND_SECONDS_MAX), tuple(steps), ALWAYS if not rounds else ())
            self.checked(self.check)
            for name, recover in RECOVERY.items():
                self.say(f"-- {name}")
                self.checked(partial(recover, self.site, self.directory, self.load, self.say))
            self.quarantined = sum(path.is_file() for path in (self.site.data / "cache" / "quarantine").rglob("*"))
            self.checked(self.check)
            rounds += 1
        self.say("-- the catalog is made again from the tapes")
        self.checked(lambda: soak_rebuild.rebuilt(self.site, LIBRARIES, self.say))
        self.checked(self.check_rebuilt)
        counts = (
            f"{sum(self.load.counts.values())} answers of servers; the operator gave up"
            f" {self.operator.given_up} emptied volumes and {len(self.operator.torn)} torn ones"
        )
        self.say(f"{rounds} rounds, {self.steps} steps, {counts}")

    def checked(self, check: Callable[[], list[str]]) -> None:
        try:
            mistakes = check()
        except (AssertionError, CapstanError, SiteError) as error:
            mistakes = [f"{type(error).__name__}: {error}"]
        if mistakes:
            wrong, recent = "\n".join(mistakes[:40]), "\n".join(self.history[-60:])
            raise Failed(f"seed {self.seed}: {len(mistakes)} mistakes\n{wrong}\n-- the last steps\n{recent}")

    def round(self, seconds: float, steps: tuple[str, ...], always: Sequence[str]) -> None:
        self.load.stop.clear()
        users = threading.Thread(target=self.load.run, name="users")
        self.operator.stop.clear()
        first = FIRST if seconds >= ROUND_SECONDS_MAX else ()
        hands = threading.Thread(target=partial(self.operator.run, first), name="operator")
        users.start()
        hands.start()
        try:
            self.steps += rage(self.chaos, seconds, self.say, steps, always)
        finally:
            self.load.stop.set()
            self.operator.stop.set()
            users.join()
            hands.join()

    # ------------------------------------------------------------------ checks

    def check(self) -> list[str]:
        for library in LIBRARIES:
            faults.clear(self.site.data / "libraries" / library)
        wait_for_the_door(self.site, REST_SECONDS_MAX)
        clock_goes_on(self.chaos)
        return asyncio.run(self._check())

    async def _check(self) -> list[str]:
        site, cache = self.site, self.site.data / "cache"
        killed = [line for line in self.history if ": kill" in line]
        # Both killed in one go, or one soon after the other.
        forgotten_max = min(sum(kind in line for line in killed) for kind in ("postgresql", "cacheserver"))
        forgotten_max += self.quarantined
        async with Database(soak_rest.database_url(site.data)) as database:
            await soak_rest.let_leases_run_out(database)
            helping = asyncio.create_task(self._help())
            try:
                await soak_rest.rest(database, seconds_max=REST_SECONDS_MAX)
            finally:
                helping.cancel()
                await asyncio.gather(helping, return_exceptions=True)
            mistakes, self.load.surprises = [*self.load.surprises, *self.chaos.mistakes], []
            mistakes += await wrong_broken(database, self.operator)
            mistakes += await soak_rest.mistakes(database, cache, forgotten_max=forgotten_max)
            mistakes += await wrong_tapes(site, database)
            async with Session((Door(url=site.url, token=site.token),)) as session:
                mistakes += await wrong_names(session, self.load)
                mistakes += await wrong_restored(session, self.operator)
                mistakes += await wrong_requests(session, self.load)
                mistakes += await wrong_jobs(session, self.load)
                dropped = await session.operators.drop(["/base", "/soak", "/restored"], wait=True)
                if kept := {why: count for why, count in dropped.kept_count.items() if "pin" not in why}:
                    mistakes.append(f"safe files that stay in the cache: {kept}")
                mistakes += await wrong_bytes(session, self.load, self.operator, self.directory)
            await soak_rest.rest(database, seconds_max=REST_SECONDS_MAX)
            mistakes += await soak_rest.mistakes(database, cache, forgotten_max=forgotten_max)
        return mistakes

    def check_rebuilt(self) -> list[str]:
        """Everything can be read, and from the tapes alone: the catalog knows of nothing on disk."""
        wait_for_the_door(self.site, REST_SECONDS_MAX)
        return asyncio.run(self._check_rebuilt())

    async def _check_rebuilt(self) -> list[str]:
        async with Session((Door(url=self.site.url, token=self.site.token),)) as session:
            mistakes = await wrong_names(session, self.load)
            mistakes += await wrong_restored(session, self.operator)
            mistakes += await wrong_bytes(session, self.load, self.operator, self.directory)
        async with Database(soak_rest.database_url(self.site.data)) as database:
            return mistakes + await wrong_tapes(self.site, database)

    async def _help(self) -> None:
        began = time.monotonic()
        for seconds in WAYS_OUT_SECONDS:
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            self.say(f"ways out at rest: {await asyncio.to_thread(ways_out, self.chaos)}")


async def wrong_tapes(site: Site, database: Database) -> list[str]:
    """The cartridges, read by somebody else, against the copies that count."""
    async with database.connection() as connection:
        rows = [tuple(row) for row in await connection.execute(sa.text(soak_tapes.RECORDED))]
    mistakes = []
    for library, recorded in soak_tapes.recorded_by_library(rows).items():
        path = site.data / "libraries" / library
        mistakes += await asyncio.to_thread(soak_tapes.missing_copies, path, recorded)
    return mistakes


async def wrong_broken(database: Database, operator: Operator) -> list[str]:
    """No volume is called broken but those that the operator called so."""
    broken = {vid for (vid,) in await soak_rest.rows(database, "select vid from volume where state = 'broken'")}
    return [f"{vid} is broken, and nobody said so" for vid in sorted(broken - operator.torn)]


async def wrong_names(session: Session, load: Load) -> list[str]:
    """The listing against what was acknowledged: name, size and checksum."""
    found: dict[str, Seen] = {}
    for root in ("/base", "/soak"):
        with suppress(NotFound):
            async for entry in session.entries(root, recursive=True):
                if not entry.is_directory:
                    found[entry.path] = entry.size, entry.adler32
    mistakes = [mistake for names in load.names.values() for mistake in names.wrong(found)]
    mistakes += [f"{path} is {found.get(path)}" for path, one in load.base.items() if found.get(path) != one.seen]
    known = set(load.base).union(*(names.known() for names in load.names.values()))
    return mistakes + [f"{path}: nobody put that" for path in found.keys() - known]


async def wrong_restored(session: Session, operator: Operator) -> list[str]:
    """What came back from the recycle bin is there; what may have come back is there, or not."""
    found: dict[str, Seen] = {}
    with suppress(NotFound):
        async for entry in session.entries("/restored", recursive=True):
            if not entry.is_directory:
                found[entry.path] = entry.size, entry.adler32
    mistakes = [f"{path}: restored {one}, there is {found.get(path)}" for path, one in operator.restored.items()
                if found.get(path) != one]  # fmt: skip
    known = operator.unsure | set(operator.restored)
    return mistakes + [f"{path}: nobody restored that" for path in found.keys() - known]


async def wrong_bytes(session: Session, load: Load, operator: Operator, directory: Path) -> list[str]:
    """Every acknowledged file is read back, from disk or from tape, and compared byte for byte; what came back from the
    recycle bin, by its checksum."""
    paths = dict(load.base)
    for names in load.names.values():
        paths |= names.certain
    mistakes = []
    async with session.staging.pinned(sorted(paths | operator.restored)) as request:
        async for file in session.staging.wait(request, timeout_seconds=2 * REST_SECONDS_MAX):
            if file.state != "COMPLETED":
                mistakes.append(f"{file.path} does not come back: {file.state} {file.error}")
                continue
            await session.get(file.path, directory / "back")
            found = (directory / "back").read_bytes()
            known = paths.get(file.path)
            right = found == known.bytes() if known else (len(found), adler32(found)) == operator.restored[file.path]
            if not right:
                mistakes.append(f"{file.path} reads back with other bytes")
    return mistakes


async def wrong_requests(session: Session, load: Load) -> list[str]:
    """None is open; what failed had one copy only, and its library had the faults."""
    mistakes = []
    for request in sorted(load.requests):
        try:
            progress = await session.staging.progress(request)
        except NotFound:
            continue  # deleted by a request whose answer was lost
        for file in progress.files:
            may_fail = load.base[file.path].copies == 1 and file.state == "FAILED"
            if file.state not in ("COMPLETED", "CANCELLED") and not may_fail:
                mistakes.append(f"request {request}, {file.path}: {file.state} {file.error}")
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


def soak(seconds: float, seed: int, *, say: Callable[[str], None]) -> None:
    """A site of its own, in a temporary directory, for one run. Raises Failed."""
    large = seconds >= LARGE_SECONDS_MIN
    # Room for what is written in each round, reclaimed or not; every one of them is looked at after a restore.
    cartridges = min(40, 12 + round(seconds / 60)) if large else 8
    with (
        small_site(CONFIGURATION.format(cartridges=cartridges)) as site,
        tempfile.TemporaryDirectory(prefix="capstan-soak-") as directory,
    ):
        Soak(site, seed, Path(directory), large=large, say=say).run(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description="Run the fault soak for as long as asked.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, which is printed")
    parsed = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if parsed.seed is None else parsed.seed
    # Every answer that the users wait for would be told, with all its tries.
    stamina.instrumentation.set_on_retry_hooks([])
    print(f"soak: SECONDS={parsed.seconds:g} SEED={seed}", flush=True)
    try:
        soak(parsed.seconds, seed, say=lambda line: print(line, flush=True))
    except Failed as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

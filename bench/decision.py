"""A decision in production: "this drive is free" is committed, then its next mount row, while much is asked for.

Real rows in a PostgreSQL of its own: millions of recalls wait on thousands of volumes, all drives but the one that has
just come free are in use, and another process enqueues as fast as the target says. The planner is the tape server's own
loop in a process of its own; it hears of the drive by a wake-up, as always. Both instants are the database's: commit
times of the two rows. The size is that of the target only where CAPSTAN_BENCH_RECALLS says so (10000000: the rows alone
take some minutes to make). Files and copies of those that wait from the beginning are left out: neither planning nor
enqueueing reads them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import uvloop

from bench.measure import Row
from catalog import endings, mounts, queues
from catalog.database import QUEUES, Database
from catalog.embedded import EmbeddedPostgres
from catalog.migrate import upgrade
from tapeserver.config import Config
from tapeserver.planning import PLANNING_CHANNELS, PlanningLoop

RECALLS, RECALLS_QUICK = 1_000_000, 50_000
RECALLS_VARIABLE = "CAPSTAN_BENCH_RECALLS"
DECISION_SECONDS_MAX, ENQUEUE_RATE_MIN = 0.050, 20_000
#: of one cohort, and on how many volumes they are
COHORT_FILES, COHORT_VOLUMES = 1000, 10
#: who enqueue at the same time, beside the decisions and in bulk
CLIENTS = 2
#: files of one call: what the resolver takes at once
CALL_FILES = 5000
#: as an operator with millions of recalls would have it, instead of what is built in for small sites
SHARED_BUFFERS = "2GB"
#: rows that one statement makes
STEP = 1_000_000
PAUSE_SECONDS = 0.2
WAIT_SECONDS_MAX = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    recalls: int
    volumes: int
    drives: int
    #: recalls enqueued at full speed, and per second beside the decisions
    bulk: int
    rate: int
    decisions: int

    @property
    def fresh(self) -> int:
        """Files that are asked for meanwhile: each decision takes its pause, and some more."""
        return self.bulk + int(self.rate * (self.decisions * (PAUSE_SECONDS + 0.1) + 30))

    @property
    def pending(self) -> str:
        return f"{self.recalls:,} recalls on {self.volumes:,} volumes, {self.drives} drives"


def run(quick: bool) -> list[Row]:
    wanted = int(os.environ.get(RECALLS_VARIABLE, RECALLS_QUICK if quick else RECALLS))
    size = Size(
        recalls=wanted, volumes=2000 if quick else 20_000, drives=20 if quick else 200,
        bulk=20_000 if quick else 200_000, rate=2000 if quick else ENQUEUE_RATE_MIN, decisions=20 if quick else 300,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="capstan-bench-") as directory:
        return asyncio.run(_run(Path(directory) / "postgresql", size))


async def _run(directory: Path, size: Size) -> list[Row]:
    server = EmbeddedPostgres(directory)
    try:
        url = await server.start()
        await upgrade(url)
        await _execute(url, "alter system set track_commit_timestamp = on")
        await _execute(url, "alter system set max_wal_size = '8GB'")
        await _execute(url, f"alter system set shared_buffers = '{SHARED_BUFFERS}'")
        await server.stop()
        await server.start()
        began = time.perf_counter()
        await _make_rows(url, size)
        made_seconds = time.perf_counter() - began
        async with Database(url, application_name="bench") as database:
            return await _measure(database, size, made_seconds)
    finally:
        await server.remove()


async def _measure(database: Database, size: Size, made_seconds: float) -> list[Row]:
    with _process(_plan, database.url):
        await _until(database, "select count(*) from mount", size.drives)
        half = size.recalls + size.bulk // 2
        alone = await _enqueue_bulk(database, size.recalls + 1, half, clients=1)
        bulk = await _enqueue_bulk(database, half + 1, size.recalls + size.bulk, clients=CLIENTS)
        with _process(_enqueue, database.url, size):
            await asyncio.sleep(3.0)
            before, began = await _value(database, "select count(*) from recall"), time.perf_counter()
            found = [await _decision(database) for _ in range(size.decisions)]
            after, seconds = await _value(database, "select count(*) from recall"), time.perf_counter() - began
        async with database.connection() as connection:
            drift = await queues.drift(connection)
    milliseconds, committing = np.array([(one.seconds, one.committing) for one in found]).T * 1e3
    rate = (after - before) / seconds
    note = f"{size.pending}; {rate:,.0f} recalls/s enqueued meanwhile; rows made in {made_seconds:.0f} s"
    reached = size.recalls >= 10_000_000 and rate >= 0.95 * ENQUEUE_RATE_MIN
    return [
        Row(name="decision, drive free to mount row: median", value=float(np.median(milliseconds)), unit="ms",
            note=note),
        Row(name="decision, drive free to mount row: p99", value=float(np.percentile(milliseconds, 99)), unit="ms",
            of="value", at_most=DECISION_SECONDS_MAX * 1e3,
            note=f"{len(found)} decisions; {'the' if reached else 'less than the'} target's size; until the first "
            f"commit was on disk: median {np.median(committing):.0f} ms, p99 {np.percentile(committing, 99):.0f} ms"),
        Row(name="recalls enqueued in bulk", value=bulk, unit="1/s", of="value", at_least=float(ENQUEUE_RATE_MIN),
            note=f"{CALL_FILES} a transaction, {CLIENTS} clients, the planner at work; one client: {alone:,.0f}/s"),
        Row(name="counters off by, afterwards", value=float(len(drift)), unit="rows", of="value", at_most=0.0,
            note=f"{after:,} recalls pending"),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decided:
    #: between the commits of the end of one mount and the beginning of the next in its drive
    seconds: float
    #: of these, until the client of the first commit had its answer: the log is on disk by then
    committing: float


async def _decision(database: Database) -> Decided:
    await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE_SECONDS)
    async with database.connection() as connection:
        live = await mounts.list_mounts(connection)
    one = random.choice(live)
    async with database.transaction() as connection:
        await endings.end_mount(connection, one.epoch, "done")
    answered = time.time()
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < deadline:
        async with database.connection() as connection:
            now = await mounts.list_mounts(connection, drives=[one.drive])
        if now and now[0].epoch != one.epoch:
            freed = await _committed(database, "mount_history", one.epoch)
            return Decided(await _committed(database, "mount", now[0].epoch) - freed, answered - freed)
        # The times are those of the commits: who looks often only takes the processor from those who are measured.
        await asyncio.sleep(0.03)
    raise TimeoutError(f"drive {one.drive} got no mount")


async def _committed(database: Database, table: str, epoch: int) -> float:
    at = f"select extract(epoch from pg_xact_commit_timestamp(xmin)) from {table} where epoch = {epoch}"
    return float(await _value(database, at))


# ------------------------------------------------------------------ the other processes


async def _plan(url: str) -> None:
    """The planner as a tape server runs it, with its wake-ups."""
    config = Config(name="bench", database_url=url, drive_silence_seconds=86_400.0)
    async with Database(url, application_name="planner") as database:
        planning = PlanningLoop(database, config, closing=asyncio.Event())

        async def ring() -> None:
            async with database.listen(PLANNING_CHANNELS) as wakeups:
                while True:
                    planning.heard(await wakeups.wait(PLANNING_CHANNELS, WAIT_SECONDS_MAX))

        await asyncio.gather(planning.run(), ring())


async def _enqueue(url: str, size: Size) -> None:
    """So many a second until it is ended, a call's worth at a time."""
    first = size.recalls + size.bulk + 1
    calls = iter(range(first, size.recalls + size.fresh + 1, CALL_FILES))
    async with Database(url, application_name="enqueuer") as database:
        began = time.monotonic()

        async def client() -> None:
            for begin in calls:
                await asyncio.sleep(max(0.0, began + (begin - first) / size.rate - time.monotonic()))
                await _call(database, begin)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        await asyncio.sleep(WAIT_SECONDS_MAX)


async def _enqueue_bulk(database: Database, first: int, last: int, *, clients: int) -> float:
    """Recalls a second."""
    began, calls = time.perf_counter(), iter(range(first, last + 1, CALL_FILES))

    async def client() -> None:
        for begin in calls:
            await _call(database, begin)

    await asyncio.gather(*(client() for _ in range(clients)))
    return (last + 1 - first) / (time.perf_counter() - began)


async def _call(database: Database, first: int) -> None:
    files = range(first, first + CALL_FILES)
    async with database.transaction() as connection:
        await queues.request_recalls(
            connection,
            files,
            owner=f"user{first // CALL_FILES % 60}",
            group=f"group{first // CALL_FILES % 8}",
            cohorts={file: 1 + file // COHORT_FILES for file in files},
        )
    database.wake(QUEUES)


@contextmanager
def _process(work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=_begin, args=(work, *arguments), daemon=True)
    process.start()
    try:
        yield
        assert process.is_alive(), f"the process of {work.__name__} has ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _begin(work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    # As Capstan's servers do.
    uvloop.run(work(*arguments))


# ------------------------------------------------------------------ rows

_MEDIA = """
insert into library (name, kind, spec) values ('bench', 'bench', '{{"medium": "LTO-9"}}');
insert into pool (name, library) values ('bench', 'bench');
insert into storage_class (name, copies, pools, evict_degraded, is_default) values ('one', 1, '{{bench}}', false, true);
insert into drive (name, library, tapeserver, heartbeat_at)
select 'd' || to_char(n, 'FM000'), 'bench', 'bench', capstan_now() from generate_series(1, {drives}) n;
insert into cache_server (name, url, root_id, host, root, capacity_bytes, heartbeat_at)
values ('cache', 'http://127.0.0.1:1', 'r', 'h', '/r', 1000000000000000000, capstan_now() + interval '1 day');
insert into volume (vid, library, pool, state, generation, capacity_bytes, written_bytes)
select 'V' || to_char(n, 'FM00000'), 'bench', 'bench', 'full', 1, 18000000000000, 18000000000000
from generate_series(0, {volumes} - 1) n;
"""
# Cohort and volume of the file n; the oldest was asked for ten hours ago.
_PLACE = """
    select n, 1 + n / {cohort_files} as cohort, 'user' || (n / {cohort_files} % 60) as owner,
           'group' || (n / {cohort_files} % 8) as grp,
           'V' || to_char((n / {cohort_files} * 7919 + n % {cohort_volumes} * 104729) % {volumes}, 'FM00000') as volume,
           date_trunc('second', capstan_now()) - make_interval(secs => 36000.0 * (1 - n / ({last} + 1.0))) as at
    from generate_series(cast({first} as bigint), {to}) n
"""
_PENDING = """
with place as materialized ({place}), asked as (
    insert into recall (file, bytes, owner, grp, cohort, created_at, not_before)
    select n, 1000000000, owner, grp, cohort, at, at from place
), wanted as (
    insert into demand (volume, first_block, file, byte_offset, copy, created_at)
    select volume, n * 4000, n, 512, n, at from place
)
insert into queue_counter (kind, key, owner, grp, activity, priority, cohort, files, bytes, urgent, asked)
select 'recall', volume, owner, grp, '', 50, cohort, count(*), sum(1000000000::bigint), 0, sum(whole_seconds(at))
from place group by volume, owner, grp, cohort;
"""
_FRESH = """
insert into file (id, size, adler32, mtime_ns, owner, grp, storage_class, stored_path) overriding system value
select n, 1000000000, '00000001', 0, owner, grp, 'one', '/bench/' || n from ({place}) as place;
insert into copy (id, file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch)
overriding system value
select n, n, 1, volume, 1, n % 1000000, n * 4000, 512, 1000000000, 0 from ({place}) as place;
"""


async def _make_rows(url: str, size: Size) -> None:
    names = {
        "drives": size.drives, "volumes": size.volumes, "cohort_files": COHORT_FILES, "cohort_volumes": COHORT_VOLUMES,
        "last": size.recalls,
    }  # fmt: skip
    await _execute(url, _MEDIA.format(**names))
    for statement, first, last in (
        (_PENDING, 1, size.recalls),
        (_FRESH, size.recalls + 1, size.recalls + size.fresh + CALL_FILES),
    ):
        # Whole cohorts: their counters are made once.
        for begin in range(first // STEP * STEP, last + 1, STEP):
            place = _PLACE.format(first=max(begin, first), to=min(begin + STEP - 1, last), **names)
            await _execute(url, statement.format(place=place))
    await _execute(url, "vacuum analyze")
    await _execute(url, "checkpoint")


async def _execute(url: str, statements: str) -> None:
    """Without triggers and references: the rows are right, and are made in bulk."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("set synchronous_commit = off")
        await connection.execute(statements)
    finally:
        await connection.close()


async def _value(database: Database, statement: str) -> Any:
    async with database.connection() as connection:
        return (await connection.exec_driver_sql(statement)).scalar()


async def _until(database: Database, statement: str, wanted: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while await _value(database, statement) < wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{statement} stays below {wanted}")
        await asyncio.sleep(0.2)

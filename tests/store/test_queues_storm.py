"""The promise of the counters: however queues are stormed, and whoever dies, what they say is what is there.

And what the folds were told adds up to what the counters say: a planner that keeps a picture needs no other look.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
import sqlalchemy as sa

from catalog import endings, mounts, queues, volumes
from catalog.database import Database, is_transient
from catalog.errors import StaleEpoch, WrongState
from catalog.queues import Written
from tests.store.media import claim_first, make_copies, make_files, planned, two_libraries, wait_for

STEPS = 20
LIBRARIES = ["east", "west"]


class Crash(Exception):
    """The process dies before its commit."""


class Storm:
    def __init__(self, database: Database, seed: int, files: list[int], told: list[queues.Change]) -> None:
        self.database, self.random, self.files, self.told = database, random.Random(seed), files, told
        self.volume, self.drive = self.random.choice([("E00001", "east1"), ("W00001", "west1")])

    async def run(self) -> None:
        steps = [self.ask, self.archive, self.mount, self.mount, self.cancel, self.remove, self.fold, self.state]
        for _ in range(STEPS):
            try:
                await self.random.choice(steps)()
            except (Crash, StaleEpoch):
                continue
            except Exception as error:
                if not is_transient(error):
                    raise

    def some(self, most: int = 15) -> list[int]:
        return self.random.sample(self.files, self.random.randint(1, most))

    def crash_sometimes(self) -> None:
        if self.random.random() < 0.15:
            raise Crash

    async def ask(self) -> None:
        async with self.database.transaction() as connection:
            wanted = self.some()
            await wait_for(connection, wanted)
            await queues.request_recalls(
                connection,
                wanted,
                owner=self.random.choice("abc"),
                group="g",
                priority=self.random.choice([10, 50]),
                cohorts={file: self.random.choice([0, 7, -8]) for file in wanted},
            )
            self.crash_sometimes()

    async def archive(self) -> None:
        async with self.database.transaction() as connection:
            await queues.enqueue_archives(connection, self.some(), urgent=self.random.random() < 0.3)
            await queues.make_urgent(connection, self.some(3))
            self.crash_sometimes()

    async def mount(self) -> None:
        async with self.database.transaction() as connection:
            epoch = await planned(connection, self.volume, self.drive, "archive")
        if epoch is None:
            running = [one for one in await self.live() if one.volume == self.volume]
            if not running:
                return
            epoch = running[0].epoch
        for _ in range(self.random.randint(1, 3)):
            await self.work(epoch)
        if self.random.random() < 0.6:
            async with self.database.transaction() as connection:
                await endings.end_mount(connection, epoch, "done")

    async def live(self) -> list[mounts.Mount]:
        async with self.database.connection() as connection:
            return await mounts.list_mounts(connection)

    async def work(self, epoch: int) -> None:
        async with self.database.transaction() as connection:
            recalls = await claim_first(connection, self.volume, epoch, self.random.randint(1, 9))
            pool = "east" if self.drive == "east1" else "west"
            archives = await queues.claim_archives(connection, pool, epoch, 5, 10**9)
            self.crash_sometimes()
        async with self.database.transaction() as connection:
            failures = [endings.RecallFailure(file_id=one.file_id, code="x", text="y") for one in recalls[:2]]
            await endings.fail_recalls(
                connection, epoch, failures, volume=self.volume, attempts_max=2, backoff_seconds=0.01
            )
            await queues.finish_recalls(connection, [one.file_id for one in recalls[2:5]])
            ids = [one.archive_id for one in archives[:1]]
            await queues.fail_archives(connection, ids, epoch, why="z", attempts_max=2, backoff_seconds=0.01)
            end = (await volumes.volume_at(connection, self.volume)).end_block
            written = [
                Written(archive_id=one.archive_id, tape_file=9, first_block=end + n * 10, byte_offset=512, length=1)
                for n, one in enumerate(archives[1:3])
            ]
            total = {"tape_files": 1000, "end_block": end + 30, "written_bytes": 1}
            await queues.commit_written(connection, epoch, written, **total)
            self.crash_sometimes()

    async def cancel(self) -> None:
        async with self.database.transaction() as connection:
            some = self.some()
            await connection.execute(
                sa.text("update stage_item set state = 'cancelled' where file = any(:f) and state = 'submitted'"),
                {"f": some},
            )
            await queues.abandon_recalls(connection, some)
            self.crash_sometimes()

    async def remove(self) -> None:
        async with self.database.transaction() as connection:
            some = self.some(2)
            await queues.drop_recalls(connection, some)
            await queues.drop_archives(connection, some)
            self.crash_sometimes()

    async def fold(self) -> None:
        async with self.database.transaction() as connection:
            folded = await queues.fold_deltas(connection, self.random.choice(LIBRARIES), self.random.choice([3, 1000]))
            await queues.retry_held(connection)
            self.crash_sometimes()
        self.told.extend(folded or [])

    async def state(self) -> None:
        # Between the look and the change another client may have broken the volume: then this one is refused.
        with suppress(WrongState):
            async with self.database.transaction() as connection:
                wanted = self.random.choice(["disabled", "enabled", "suspect", "broken"])
                volume = self.random.choice(["E00002", "W00002"])
                present = (await volumes.volume_at(connection, volume)).state
                if present == "broken":
                    wanted = "suspect"
                await volumes.set_state(connection, "volume", volume, wanted, who="storm", reason="storm")
                self.crash_sometimes()


def sums(changes: list[queues.Change]) -> dict[tuple[object, ...], tuple[int, ...]]:
    total: dict[tuple[object, ...], tuple[int, ...]] = {}
    for one in changes:
        key = (one.kind, one.key, one.owner, one.group, one.activity, one.priority, one.cohort)
        more = (one.files, one.bytes, one.urgent, one.asked)
        total[key] = tuple(a + b for a, b in zip(total.get(key, (0, 0, 0, 0)), more, strict=True))
    return {key: values for key, values in total.items() if any(values)}


@pytest.mark.parametrize("seed", [1, 2])
async def test_counters_are_exact_after_any_storm(database: Database, seed: int) -> None:
    async with database.transaction() as connection:
        await two_libraries(connection)
        files = await make_files(connection, 60, storage_class="two", on_disk=False)
        await make_copies(connection, files[:40], "E00001", number=1)
        await make_copies(connection, files[20:], "W00001", number=2)
        await make_copies(connection, files[::3], "E00002", number=1)
        more = await make_files(connection, 40, storage_class="two")
        await make_copies(connection, more[:20], "W00002", number=2)
    told: list[queues.Change] = []
    async with asyncio.TaskGroup() as clients:
        for number in range(6):
            clients.create_task(Storm(database, seed * 100 + number, files + more, told).run())
    async with database.transaction() as connection:
        assert await queues.drift(connection) == []
        for live in await mounts.list_mounts(connection):
            await endings.end_mount(connection, live.epoch, "over")
        assert await endings.requeue_orphans(connection) == 0
        for library in LIBRARIES:
            while folded := await queues.fold_deltas(connection, library):
                told.extend(folded)
        assert await connection.scalar(sa.text("select count(*) from queue_delta")) == 0
        assert await queues.drift(connection) == []
        assert sums(told) == sums([one for library in LIBRARIES for one in await queues.counters(connection, library)])
        claimed = sa.text("select count(*) from recall where state = 'claimed' or epoch is not null")
        assert await connection.scalar(claimed) == 0
        stranded = sa.text(
            "select count(*) from recall r where not exists (select from demand d where d.file = r.file)"
        )
        assert await connection.scalar(stranded) == 0

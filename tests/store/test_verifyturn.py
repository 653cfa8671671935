"""Promises of verifying: it goes on where it stopped, and a copy is broken only when it failed in two mounts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

import pytest
import sqlalchemy as sa

from catalog import endings, failures, maintenance, mounts, volumes
from catalog.database import Database
from catalog.maintenance import Maintenance
from tapeserver import verifyturn
from tapeserver.config import Config
from tapeserver.frames import (
    FromMover,
    Load,
    Loaded,
    LoadFailed,
    Stop,
    ToMover,
    Unloaded,
    Verified,
    Verify,
    VerifyFailed,
)
from tapeserver.labelturn import LabelTurn
from tapeserver.mountcontext import MountContext
from tapeserver.turns import LoadRefused
from tapeserver.verifyturn import VerifyTurn
from tests.store.media import make_copies, make_files, mounted, two_libraries


class Mover:
    """Answers as a mover does; stops hearing after `patience` copies."""

    phase, phase_seconds, alive = "idle", 0.0, True

    def __init__(self, bad: Collection[int], patience: int | None) -> None:
        self._bad, self._patience = set(bad), patience
        self._said: deque[FromMover] = deque()
        self.loads: list[Load] = []
        self.asked: list[int] = []
        self.refuses: str | None = None

    async def send(self, message: ToMover) -> None:
        match message:
            case Load() if self.refuses:
                self.loads.append(message)
                self._said.append(LoadFailed(code="not_blank", text=self.refuses, verdict="not_blank"))
            case Load():
                self.loads.append(message)
                self._said.append(Loaded(tape_files=0, end_block=2, remaining_bytes=None))
            case Verify():
                for one in message.items:
                    self._answer(one.file_id, one.size)
            case Stop():
                self._said.append(Unloaded())

    def _answer(self, file: int, size: int) -> None:
        if self._patience is not None and len(self.asked) >= self._patience:
            return
        self.asked.append(file)
        if file in self._bad:
            self._said.append(VerifyFailed(file_id=file, code="medium_error", text="unreadable"))
        else:
            self._said.append(Verified(file_ids=[file], bytes=size))

    async def receive(self, seconds: float) -> FromMover | None:
        if not self._said:
            await asyncio.sleep(0.01)
        return self.received()

    def received(self) -> FromMover | None:
        return self._said.popleft() if self._said else None


class Tape:
    """Mounts of E00001, one after the other."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.row = 0

    async def begin(self, **options: object) -> None:
        async with self.database.transaction() as connection:
            self.row = await maintenance.begin(
                connection, "verify", "E00001", who="ann", reason="test", options=options
            )

    async def mount(
        self, drive: str = "east1", *, bad: Collection[int] = (), patience: int | None = None, stop: bool = False
    ) -> Mover:
        mover = Mover(bad, patience)
        context = await self._context(drive, "verify", mover)
        turn = VerifyTurn(context)
        if stop:
            asyncio.get_running_loop().call_later(0.3, self._stop, context)
        async with asyncio.timeout(20):
            await turn.run()
        await self._end(context)
        return mover

    def _stop(self, context: MountContext) -> None:
        context.stop_why = "gave way"

    async def label(self, mover: Mover) -> LabelTurn:
        context = await self._context("east1", "label", mover)
        turn = LabelTurn(context)
        try:
            await turn.run()
        finally:
            await self._end(context)
        return turn

    async def _context(self, drive: str, purpose: str, mover: Mover) -> MountContext:
        async with self.database.transaction() as connection:
            epoch = await mounted(connection, "E00001", drive, purpose)
            work = await mounts.take(connection, epoch, "ts")
        assert work is not None
        return MountContext(
            database=self.database, config=Config(dismount_delay_seconds=0.1), link=mover, work=work,  # type: ignore[arg-type]  # what a turn uses of a link
            bell=asyncio.Event(), closing=asyncio.Event(),
        )  # fmt: skip

    async def _end(self, context: MountContext) -> None:
        async with self.database.transaction() as connection:
            await endings.end_mount(connection, context.work.epoch, "done")

    async def now(self) -> Maintenance:
        async with self.database.transaction() as connection:
            return await maintenance.at(connection, self.row)

    async def broken(self) -> list[int]:
        async with self.database.connection() as connection:
            query = sa.text("select file from copy where broken_at is not null order by file")
            return list((await connection.scalars(query)).all())


@pytest.fixture
async def tape(database: Database) -> Tape:
    async with database.transaction() as connection:
        await two_libraries(connection)
        await connection.execute(sa.text("update drive set heartbeat_at = capstan_now(), tapeserver = 'ts'"))
    return Tape(database)


@pytest.fixture
async def files(tape: Tape) -> list[int]:
    """With a copy on the volume each, and none on disk."""
    async with tape.database.transaction() as connection:
        made = await make_files(connection, 6, on_disk=False)
        await make_copies(connection, made, "E00001")
    return made


async def test_a_volume_that_reads_well_is_verified_in_one_mount(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    mover = await tape.mount()
    assert mover.asked == files
    row = await tape.now()
    assert (row.state, row.done_files, row.done_bytes, row.errors) == ("done", 6, 600, 0)
    async with tape.database.connection() as connection:
        assert (await volumes.volume_at(connection, "E00001")).verified_at is not None


async def test_a_mount_that_was_stopped_is_gone_on_with_behind_its_last_copy(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    assert (await tape.mount(patience=4, stop=True)).asked == files[:4]
    assert (await tape.now()).state == "running"
    assert (await tape.mount("east2")).asked == files[4:]
    row = await tape.now()
    assert (row.state, row.done_files) == ("done", 6)


async def test_a_copy_that_fails_in_two_drives_is_broken(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    await tape.mount("east1", bad=[files[2]])
    assert (await tape.now()).state == "running"
    assert await tape.broken() == []
    async with tape.database.connection() as connection:
        assert [(one.volume, one.drive) for one in await failures.suspect_pairs(connection, "east")] == [
            ("E00001", "east1")
        ]
    second = await tape.mount("east2", bad=[files[2]])
    assert second.asked == [files[2]]
    assert await tape.broken() == [files[2]]
    row = await tape.now()
    assert (row.state, row.done_files, row.errors) == ("done", 6, 1)


async def test_one_drive_that_cannot_read_a_copy_twice_does_not_break_it_while_another_can_be_asked(
    tape: Tape, files: list[int]
) -> None:
    await tape.begin()
    await tape.mount("east1", bad=[files[2]])
    again = await tape.mount("east1", bad=[files[2]])
    assert again.asked == [files[2]]
    assert await tape.broken() == []
    assert (await tape.now()).state == "running"
    await tape.mount("east2")
    row = await tape.now()
    assert (row.state, row.done_files, row.errors) == ("done", 6, 0)


async def test_the_only_drive_there_is_breaks_a_copy_that_it_cannot_read_twice(tape: Tape, files: list[int]) -> None:
    async with tape.database.transaction() as connection:
        await connection.execute(sa.text("update drive set state = 'down' where name = 'east2'"))
    await tape.begin()
    await tape.mount("east1", bad=[files[2]])
    assert await tape.broken() == []
    await tape.mount("east1", bad=[files[2]])
    assert await tape.broken() == [files[2]]
    assert (await tape.now()).state == "done"


async def test_a_copy_that_another_drive_reads_well_is_not_broken(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    await tape.mount("east1", bad=files[2:4])
    await tape.mount("east2")
    assert await tape.broken() == []
    row = await tape.now()
    assert (row.state, row.done_files, row.errors) == ("done", 6, 0)


async def test_with_many_failures_the_mount_ends_and_the_next_asks_for_them_before_it_goes_on(
    tape: Tape, files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifyturn, "AGAIN_MAX", 2)
    monkeypatch.setattr(verifyturn, "COPIES_AHEAD", 3)
    await tape.begin()
    assert (await tape.mount("east1", bad=files[:2])).asked == files[:3]
    assert (await tape.mount("east2", bad=files[:2])).asked == [*files[:2], *files[3:]]
    assert await tape.broken() == files[:2]
    assert (await tape.now()).state == "done"


async def test_a_verify_that_brings_nothing_again_and_again_is_given_up(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    for _ in range(verifyturn.STARTS_MAX):
        await tape.mount(patience=0, stop=True)
    assert (await tape.now()).state == "running"
    await tape.mount()
    row = await tape.now()
    assert (row.state, row.note) == ("failed", "given up after 5 mounts that brought nothing")


async def test_a_cancelled_verify_touches_nothing_more(tape: Tape, files: list[int]) -> None:
    await tape.begin()
    async with tape.database.transaction() as connection:
        await maintenance.cancel(connection, tape.row, who="ann", reason="no")
    assert (await tape.mount()).asked == []


async def test_a_label_is_recorded_with_the_next_generation(tape: Tape) -> None:
    async with tape.database.transaction() as connection:
        tape.row = await volumes.relabel(connection, "E00001", who="ann", reason="foreign", force=True)
    mover = Mover((), None)
    await tape.label(mover)
    [load] = mover.loads
    assert (load.purpose, load.generation, load.force_label, load.initialise_label) == ("label", 2, True, True)
    async with tape.database.connection() as connection:
        volume = await volumes.volume_at(connection, "E00001")
    assert (volume.state, volume.generation, volume.end_block) == ("active", 2, 2)
    assert (await tape.now()).state == "done"


async def test_a_label_that_is_refused_fails_with_the_reason_and_is_not_tried_again(tape: Tape) -> None:
    async with tape.database.transaction() as connection:
        tape.row = await volumes.relabel(connection, "E00001", who="ann", reason="test")
    mover = Mover((), None)
    mover.refuses = "something else is recorded on it"
    with pytest.raises(LoadRefused):
        await tape.label(mover)
    row = await tape.now()
    assert (row.state, row.note) == ("failed", "not_blank: something else is recorded on it")
    async with tape.database.connection() as connection:
        assert (await volumes.volume_at(connection, "E00001")).generation == 1
    again = Mover((), None)
    turn = await tape.label(again)
    assert again.loads == []
    assert turn.problem is not None

"""What every batch system promises (jobserver/batch/__init__.py), asked of each implementation."""

from __future__ import annotations

import asyncio
import itertools
import os
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from catalog.database import Database
from catalog.errors import BadRequest, NotFound, TooLarge, WrongState
from jobserver.batch import BatchSpec, BatchState, BatchStatus, BatchSystem
from jobserver.batch.local import LocalBatch
from jobserver.batch.memory import MemoryBatch, Program
from jobserver.migrations import upgrade

OUTPUT_BYTES_MAX = 10_000
KEYS = itertools.count(1)


class Harness(Protocol):
    """One system with one slot, and programs that it can run."""

    system: BatchSystem

    def program(
        self, *, stdout: str = "", stderr: str = "", exit_code: int | None = 0, signal: int | None = None
    ) -> tuple[str, ...]:
        """An argv that does this; exit_code None and no signal: runs until it is ended."""

    def argv_that_tells(self) -> tuple[str, ...] | None: ...


class MemoryHarness:
    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self.system: BatchSystem = MemoryBatch(slots=1, output_bytes_max=OUTPUT_BYTES_MAX, argv_bytes_max=1000)

    def program(
        self, *, stdout: str = "", stderr: str = "", exit_code: int | None = 0, signal: int | None = None
    ) -> tuple[str, ...]:
        assert isinstance(self.system, MemoryBatch)
        name = f"program-{next(KEYS)}"
        self.system._programs[name] = Program(
            stdout=stdout.encode(), stderr=stderr.encode(), exit_code=None if signal else exit_code, signal=signal
        )
        return (name,)

    def argv_that_tells(self) -> tuple[str, ...] | None:
        return None


class LocalHarness:
    def __init__(self, database: Database, root: Path) -> None:
        self.system: BatchSystem = LocalBatch(
            database,
            root,
            slots=1,
            output_bytes_max=OUTPUT_BYTES_MAX,
            argv_bytes_max=1000,
            kill_after_seconds=0.3,
            look_every_seconds=0.02,
            idle_look_every_seconds=0.02,
        )

    def program(
        self, *, stdout: str = "", stderr: str = "", exit_code: int | None = 0, signal: int | None = None
    ) -> tuple[str, ...]:
        parts = []
        if len(stdout) > 500:
            parts.append(f"head -c {len(stdout)} /dev/zero | tr '\\0' x")
        elif stdout:
            parts.append(f"printf %s {shlex.quote(stdout)}")
        if stderr:
            parts.append(f"printf %s {shlex.quote(stderr)} >&2")
        if signal:
            parts.append(f"kill -{signal} $$; sleep 5")
        else:
            parts.append("exec sleep 60" if exit_code is None else f"exit {exit_code}")
        return ("sh", "-c", "; ".join(parts))

    def argv_that_tells(self) -> tuple[str, ...] | None:
        return ("sh", "-c", "env | sort; pwd; ls -A | wc -l; umask")


@pytest.fixture(params=["memory", "local"])
def harness(request: pytest.FixtureRequest) -> Harness:
    found: Harness = MemoryHarness() if request.param == "memory" else request.getfixturevalue("local_harness")
    return found


@pytest.fixture
async def local_harness(jobs_database: Database, tmp_path: Path) -> AsyncIterator[Harness]:
    database = jobs_database
    local = LocalHarness(database, tmp_path / "batch")
    assert isinstance(local.system, LocalBatch)
    worker = asyncio.create_task(local.system.run())
    try:
        yield local
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        async with database.connection() as connection:
            busy = (await connection.exec_driver_sql("select id from jobs.local_job where state = 'running'")).all()
        for row in busy:
            await local.system.cancel(str(row.id))
        while busy and await local.system.step():
            await asyncio.sleep(0.02)


@pytest.fixture
async def jobs_database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    async with Database(database_url, application_name="test") as found:
        yield found


def spec(argv: tuple[str, ...], *, key: str | None = None) -> BatchSpec:
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "CAPSTAN_JOB_ID": "7"}
    return BatchSpec(key=key or f"job-{next(KEYS)}.1", name="test", argv=argv, environment=environment)


async def status(harness: Harness, native_id: str) -> BatchStatus:
    return (await harness.system.status_many([native_id]))[native_id]


async def until(
    harness: Harness, native_id: str, wanted: Callable[[BatchStatus], bool], seconds: float = 10.0
) -> BatchStatus:
    async with asyncio.timeout(seconds):
        while not wanted(present := await status(harness, native_id)):
            await asyncio.sleep(0.01)
    return present


async def until_state(harness: Harness, native_id: str, state: BatchState) -> BatchStatus:
    return await until(harness, native_id, lambda found: found.state is state)


async def run(harness: Harness, argv: tuple[str, ...]) -> tuple[str, BatchStatus]:
    native_id = await harness.system.submit_held(spec(argv))
    await harness.system.release(native_id, priority=50)
    return native_id, await until_state(harness, native_id, BatchState.ENDED)


async def test_a_submitted_job_is_held_and_does_not_start_while_slots_are_free(harness: Harness) -> None:
    held = await harness.system.submit_held(spec(harness.program()))
    _, ended = await run(harness, harness.program())
    assert ended.exit_code == 0
    assert (await status(harness, held)).state is BatchState.HELD


async def test_submitting_the_same_key_again_gives_the_same_job(harness: Harness) -> None:
    asked = spec(harness.program())
    assert await harness.system.submit_held(asked) == await harness.system.submit_held(asked)


async def test_submitting_the_same_key_after_it_ran_does_not_run_it_again(harness: Harness) -> None:
    asked = spec(harness.program(exit_code=4))
    native_id = await harness.system.submit_held(asked)
    await harness.system.release(native_id, priority=1)
    await until_state(harness, native_id, BatchState.ENDED)
    assert await harness.system.submit_held(asked) == native_id
    await harness.system.release(native_id, priority=1)
    assert (await status(harness, native_id)).exit_code == 4


@pytest.mark.parametrize("exit_code", [0, 3, 255])
async def test_the_exit_code_is_the_programs(harness: Harness, exit_code: int) -> None:
    _, ended = await run(harness, harness.program(exit_code=exit_code))
    assert (ended.exit_code, ended.signal) == (exit_code, None)


async def test_a_program_ended_by_a_signal_tells_the_signal_and_no_exit_code(harness: Harness) -> None:
    _, ended = await run(harness, harness.program(signal=9))
    assert (ended.exit_code, ended.signal) == (None, 9)


async def test_a_program_that_does_not_exist_ends_with_127_and_a_reason(harness: Harness) -> None:
    _, ended = await run(harness, ("no-such-program", "x"))
    assert ended.exit_code == 127
    assert "no-such-program" in ended.reason


async def test_stdout_and_stderr_are_kept_apart_and_read_from_an_offset(harness: Harness) -> None:
    native_id, _ = await run(harness, harness.program(stdout="abcdef", stderr="trouble"))
    assert await harness.system.output(native_id, "stdout", offset=0, bytes_max=100) == b"abcdef"
    assert await harness.system.output(native_id, "stdout", offset=2, bytes_max=3) == b"cde"
    assert await harness.system.output(native_id, "stdout", offset=6, bytes_max=100) == b""
    assert await harness.system.output(native_id, "stderr", offset=0, bytes_max=100) == b"trouble"


async def test_output_can_be_read_while_the_program_runs(harness: Harness) -> None:
    native_id = await harness.system.submit_held(spec(harness.program(stdout="early", exit_code=None)))
    await harness.system.release(native_id, priority=50)
    await until_state(harness, native_id, BatchState.RUNNING)
    async with asyncio.timeout(10):
        while await harness.system.output(native_id, "stdout", offset=0, bytes_max=100) != b"early":
            await asyncio.sleep(0.01)
    await harness.system.cancel(native_id)


async def test_output_beyond_the_limit_is_dropped_with_a_note(harness: Harness) -> None:
    native_id, _ = await run(harness, harness.program(stdout="x" * (OUTPUT_BYTES_MAX + 2_000)))
    kept = await harness.system.output(native_id, "stdout", offset=0, bytes_max=1 << 20)
    assert kept.startswith(b"x" * OUTPUT_BYTES_MAX)
    assert kept[OUTPUT_BYTES_MAX:] == b"\n[capstan: 2000 more bytes were not kept]\n"


async def test_a_released_job_waits_for_a_slot_and_the_highest_priority_takes_it(harness: Harness) -> None:
    busy = await harness.system.submit_held(spec(harness.program(exit_code=None)))
    await harness.system.release(busy, priority=50)
    await until_state(harness, busy, BatchState.RUNNING)
    low, high = [await harness.system.submit_held(spec(harness.program(exit_code=None))) for _ in range(2)]
    await harness.system.release(low, priority=50)
    await harness.system.release(high, priority=100)
    assert (await status(harness, low)).state is BatchState.QUEUED
    await harness.system.cancel(busy)
    await until_state(harness, high, BatchState.RUNNING)
    assert (await status(harness, low)).state is BatchState.QUEUED
    for native_id in (low, high):
        await harness.system.cancel(native_id)


async def test_jobs_of_one_priority_start_in_the_order_of_their_release(harness: Harness) -> None:
    busy = await harness.system.submit_held(spec(harness.program(exit_code=None)))
    await harness.system.release(busy, priority=50)
    await until_state(harness, busy, BatchState.RUNNING)
    second, first = [await harness.system.submit_held(spec(harness.program(exit_code=None))) for _ in range(2)]
    await harness.system.release(first, priority=50)
    await harness.system.release(second, priority=50)
    await harness.system.cancel(busy)
    await until_state(harness, first, BatchState.RUNNING)
    assert (await status(harness, second)).state is BatchState.QUEUED
    for native_id in (first, second):
        await harness.system.cancel(native_id)


async def test_a_release_can_be_taken_back_before_the_start(harness: Harness) -> None:
    busy = await harness.system.submit_held(spec(harness.program(exit_code=None)))
    await harness.system.release(busy, priority=50)
    await until_state(harness, busy, BatchState.RUNNING)
    waiting = await harness.system.submit_held(spec(harness.program()))
    await harness.system.release(waiting, priority=50)
    await harness.system.hold(waiting)
    await harness.system.hold(waiting)
    await harness.system.cancel(busy)
    _, other = await run(harness, harness.program())
    assert other.exit_code == 0
    assert (await status(harness, waiting)).state is BatchState.HELD


async def test_a_running_or_ended_job_cannot_be_held(harness: Harness) -> None:
    native_id = await harness.system.submit_held(spec(harness.program(exit_code=None)))
    await harness.system.release(native_id, priority=50)
    await until_state(harness, native_id, BatchState.RUNNING)
    with pytest.raises(WrongState):
        await harness.system.hold(native_id)
    await harness.system.cancel(native_id)
    await until_state(harness, native_id, BatchState.CANCELLED)
    with pytest.raises(WrongState):
        await harness.system.hold(native_id)


async def test_a_cancelled_job_that_was_held_never_starts(harness: Harness) -> None:
    native_id = await harness.system.submit_held(spec(harness.program()))
    await harness.system.cancel(native_id)
    await harness.system.cancel(native_id)
    await harness.system.release(native_id, priority=100)
    await run(harness, harness.program())
    assert (await status(harness, native_id)).state is BatchState.CANCELLED


async def test_cancelling_a_running_job_ends_it(harness: Harness) -> None:
    native_id = await harness.system.submit_held(spec(harness.program(exit_code=None)))
    await harness.system.release(native_id, priority=50)
    await until_state(harness, native_id, BatchState.RUNNING)
    await harness.system.cancel(native_id)
    await until_state(harness, native_id, BatchState.CANCELLED)


async def test_cancelling_what_has_ended_changes_nothing(harness: Harness) -> None:
    native_id, ended = await run(harness, harness.program(exit_code=2))
    await harness.system.cancel(native_id)
    assert await status(harness, native_id) == ended


async def test_an_unknown_id_is_left_out_of_the_status_and_not_found_elsewhere(harness: Harness) -> None:
    known = await harness.system.submit_held(spec(harness.program()))
    assert list(await harness.system.status_many([known, "999999", "strange"])) == [known]
    for call in (
        harness.system.cancel("999999"),
        harness.system.hold("999999"),
        harness.system.release("999999", priority=1),
        harness.system.output("999999", "stdout", offset=0, bytes_max=1),
    ):
        with pytest.raises(NotFound):
            await call


async def test_a_status_carries_our_own_key(harness: Harness) -> None:
    asked = spec(harness.program())
    native_id = await harness.system.submit_held(asked)
    assert (await status(harness, native_id)).key == asked.key


async def test_a_command_line_beyond_the_limit_or_empty_is_refused_at_submission(harness: Harness) -> None:
    with pytest.raises(TooLarge):
        await harness.system.submit_held(spec(("x" * 1001,)))
    for argv in ((), ("",), ("true", "a\0b")):
        with pytest.raises(BadRequest):
            await harness.system.submit_held(spec(argv))


async def test_a_forgotten_job_is_gone_and_one_that_lives_is_not_forgotten(harness: Harness) -> None:
    native_id, _ = await run(harness, harness.program(stdout="x"))
    await harness.system.forget(native_id)
    await harness.system.forget(native_id)
    assert await harness.system.status_many([native_id]) == {}
    held = await harness.system.submit_held(spec(harness.program()))
    with pytest.raises(WrongState):
        await harness.system.forget(held)


async def test_a_job_has_exactly_the_environment_that_was_given_and_an_empty_directory(harness: Harness) -> None:
    argv = harness.argv_that_tells()
    if argv is None:
        pytest.skip("this system runs no programs")
    native_id, _ = await run(harness, argv)
    lines = (await harness.system.output(native_id, "stdout", offset=0, bytes_max=10_000)).decode().splitlines()
    names = {line.split("=")[0] for line in lines if "=" in line}
    # PWD, OLDPWD, SHLVL and _ are the shell's own.
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LANG", "CAPSTAN_JOB_ID"}
    directory, entries, _ = lines[-3:]
    assert Path(directory).name == "work"
    assert entries == "0"

"""The local batch system when things are killed: rule 9 of the design, on a real PostgreSQL with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from catalog.database import Database
from catalog.errors import BadConfig
from jobserver.batch import MOVES, BatchSpec, BatchState, BatchStatus
from jobserver.batch.local import LocalBatch
from jobserver.batch.local_attempt import Attempt
from jobserver.migrations import upgrade
from jobserver.tables import local_job
from tests.waiting import eventually


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await upgrade(database_url)
    async with Database(database_url, application_name="test") as found:
        yield found


class Host:
    """A host on which job servers come and go; its jobs stay."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database, self.root, self.jobs = database, root, 0
        self.system = self.new_server()

    def new_server(self) -> LocalBatch:
        self.system = LocalBatch(self.database, self.root, slots=2, kill_after_seconds=0.3)
        return self.system

    async def submit(self, script: str, *, release: bool = True) -> str:
        self.jobs += 1
        environment = {"PATH": os.environ["PATH"]}
        argv = ("sh", "-c", script)
        native_id = await self.system.submit_held(
            BatchSpec(key=f"job-{self.jobs}.1", name="test", argv=argv, environment=environment)
        )
        if release:
            await self.system.release(native_id, priority=50)
        return native_id

    async def status(self, native_id: str) -> BatchStatus:
        return (await self.system.status_many([native_id]))[native_id]

    async def until(self, native_id: str, *states: BatchState) -> BatchStatus:
        async with asyncio.timeout(20):
            while (found := await self.status(native_id)).state not in states:
                await self.system.step()
                await asyncio.sleep(0.02)
        return found

    async def until_written(self, native_id: str, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in await self.system.output(native_id, "stdout", offset=0, bytes_max=1000):
                await self.system.step()
                await asyncio.sleep(0.02)

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.root, f"job-{number}.1")

    def runner(self, number: int) -> int:
        return int(json.loads((self.root / f"job-{number}.1" / "started").read_text())["pid"])


@pytest.fixture
async def host(database: Database, tmp_path: Path) -> AsyncIterator[Host]:
    found = Host(database, tmp_path / "batch")
    yield found
    for number in range(1, found.jobs + 1):
        with contextlib.suppress(OSError):
            found.attempt(number).signal_runner(signal.SIGTERM)


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until_gone(process: int) -> None:
    async def gone() -> bool:
        return not alive(process)

    await eventually(gone)


async def no_runner(attempt: Attempt) -> bool:
    """Whether no process works for this attempt: its directory is an argument of its runner."""
    wanted = os.fsencode(attempt.directory)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted in command.read_bytes().split(b"\0"):
                return False
    return True


async def test_a_running_job_outlives_its_server_and_the_next_one_learns_how_it_ended(host: Host) -> None:
    native_id = await host.submit("echo up; while [ ! -e go ]; do sleep 0.02; done; exit 5")
    await host.until_written(native_id, b"up")
    host.new_server()
    (host.root / "job-1.1" / "work" / "go").touch()
    ended = await host.until(native_id, BatchState.ENDED, BatchState.LOST)
    assert (ended.state, ended.exit_code) == (BatchState.ENDED, 5)


async def test_a_job_that_ended_while_no_server_ran_is_known_with_its_exit_code_and_times(host: Host) -> None:
    native_id = await host.submit("echo up; exit 7")
    await host.until(native_id, BatchState.RUNNING, BatchState.ENDED)
    host.new_server()
    ended = await host.until(native_id, BatchState.ENDED)
    assert ended.exit_code == 7
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.started_at <= ended.ended_at


async def test_the_runner_is_no_child_of_the_server_and_leads_no_session_of_it(host: Host) -> None:
    native_id = await host.submit("echo up; exec sleep 60")
    await host.until_written(native_id, b"up")
    fields = Path(f"/proc/{host.runner(1)}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(fields[1]), int(fields[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)


async def test_a_job_whose_start_was_decided_before_a_kill_is_started_by_the_next_server(host: Host) -> None:
    native_id = await host.submit("echo once")
    async with host.database.transaction() as connection:
        await connection.execute(local_job.update().values(state="starting"))
    host.new_server()
    await host.until(native_id, BatchState.ENDED)
    assert await host.system.output(native_id, "stdout", offset=0, bytes_max=100) == b"once\n"


async def test_of_many_runners_of_one_attempt_one_runs_the_program(host: Host, tmp_path: Path) -> None:
    attempt = host.attempt(99)
    order = {
        "argv": ["sh", "-c", f"echo run >> {tmp_path}/runs; sleep 0.3"],
        "environment": {"PATH": os.environ["PATH"]},
        "umask": 0o022,
        "output_bytes_max": 1000,
        "kill_after_seconds": 1.0,
    }
    await asyncio.gather(*(asyncio.to_thread(attempt.launch, order) for _ in range(4)))
    await eventually(lambda: asyncio.to_thread((attempt.directory / "exit").exists))
    await asyncio.to_thread(attempt.launch, order)
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_a_job_whose_runner_was_killed_is_lost_and_never_started_again(host: Host, tmp_path: Path) -> None:
    native_id = await host.submit(f"echo run >> {tmp_path}/runs; echo $$; exec sleep 60")
    await host.until_written(native_id, b"\n")
    program = int(await host.system.output(native_id, "stdout", offset=0, bytes_max=100))
    os.kill(host.runner(1), signal.SIGKILL)
    # The program goes with its runner: otherwise it would run on, uncounted.
    await until_gone(program)
    lost = await host.until(native_id, BatchState.LOST)
    assert "without saying how it ended" in lost.reason
    host.new_server()
    await host.system.release(native_id, priority=100)
    await host.system.step()
    assert (await host.status(native_id)).state is BatchState.LOST
    assert (tmp_path / "runs").read_text() == "run\n"


async def test_started_without_exit_and_without_a_runner_is_lost(host: Host) -> None:
    native_id = await host.submit("echo never", release=False)
    directory = host.root / "job-1.1"
    directory.mkdir()
    (directory / "started").write_text("")  # a runner was killed between making it and writing it
    await host.system.release(native_id, priority=1)
    assert (await host.until(native_id, BatchState.LOST, BatchState.ENDED)).state is BatchState.LOST


async def test_a_program_that_ignores_sigterm_is_killed_after_a_while(host: Host) -> None:
    native_id = await host.submit("trap '' TERM; echo up; while :; do sleep 0.1; done")
    await host.until_written(native_id, b"up")
    await host.system.cancel(native_id)
    cancelled = await host.until(native_id, BatchState.CANCELLED)
    assert cancelled.signal == signal.SIGKILL


async def test_a_program_may_clean_up_on_sigterm_and_its_exit_code_is_kept(host: Host) -> None:
    native_id = await host.submit("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done")
    await host.until_written(native_id, b"up")
    await host.system.cancel(native_id)
    cancelled = await host.until(native_id, BatchState.CANCELLED)
    assert cancelled.exit_code == 3
    assert b"bye" in await host.system.output(native_id, "stdout", offset=0, bytes_max=100)


async def test_cancelling_ends_processes_that_left_the_session_too_and_no_other(host: Host) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        native_id = await host.submit("setsid sh -c 'echo $$; exec sleep 60' & wait")
        await host.until_written(native_id, b"\n")
        runaway = int(await host.system.output(native_id, "stdout", offset=0, bytes_max=100))
        await host.system.cancel(native_id)
        await host.until(native_id, BatchState.CANCELLED)
        await until_gone(runaway)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_what_a_program_left_running_is_ended_with_it(host: Host) -> None:
    native_id = await host.submit("sleep 60 & echo $!; exit 0")
    ended = await host.until(native_id, BatchState.ENDED)
    assert ended.exit_code == 0
    await until_gone(int(await host.system.output(native_id, "stdout", offset=0, bytes_max=100)))


async def test_a_job_cancelled_after_its_start_was_decided_and_before_a_runner_began_never_runs(host: Host) -> None:
    native_id = await host.submit("echo never")
    async with host.database.transaction() as connection:
        await connection.execute(local_job.update().values(state="starting", cancel_wanted=True))
    await host.until(native_id, BatchState.CANCELLED)
    order = {"argv": ["true"], "environment": {}, "umask": 0o22, "output_bytes_max": 1, "kill_after_seconds": 1.0}
    await asyncio.to_thread(host.attempt(1).launch, order)  # a runner launched late
    await eventually(lambda: no_runner(host.attempt(1)))
    assert not (host.root / "job-1.1" / "exit").exists()


async def test_slots_bound_what_runs_at_once(host: Host) -> None:
    jobs = [await host.submit("echo up; exec sleep 60") for _ in range(3)]
    for native_id in jobs[:2]:
        await host.until(native_id, BatchState.RUNNING)
    await host.system.step()
    assert (await host.status(jobs[2])).state is BatchState.QUEUED
    for native_id in jobs:
        await host.system.cancel(native_id)
        await host.until(native_id, BatchState.CANCELLED)


async def test_the_directory_of_another_user_is_refused(database: Database, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(BadConfig):
        LocalBatch(database, tmp_path, slots=1)
    os.chown(tmp_path, 0, 0)


async def test_the_database_allows_the_steps_that_the_table_allows_and_no_other(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.exec_driver_sql(
            "select from_state, to_state from jobs.state_move where machine = 'local_job' and from_state <> ''"
        )
        in_database = {(row.from_state, row.to_state) for row in rows}
    assert in_database == {(str(state), str(target)) for state, targets in MOVES.items() for target in targets}

"""The whole job server over HTTP: a real PostgreSQL, real processes as jobs, and a door whose tapes the test works."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest

from jobserver.config import Config
from jobserver.server import serve
from tests.jobdoor import JobDoor
from tests.waiting import eventually

ENDED = ("done", "failed", "cancelled")


class Site:
    """A door and a job server that can be ended and started again; its jobs go on."""

    def __init__(self, door: JobDoor, config: Config) -> None:
        self.door, self.config = door, config
        self.url = ""
        self._stop = asyncio.Event()
        self._server: asyncio.Task[None] | None = None
        self.http = aiohttp.ClientSession()

    async def start(self) -> None:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._server = asyncio.create_task(serve(self.config, ready=ready.set_result, stop=self._stop))
        self._server.add_done_callback(lambda _: ready.done() or ready.cancel())
        async with asyncio.timeout(30):
            port = await ready
        self.url = f"http://127.0.0.1:{port}/api/jobs/v1/jobs"

    async def stop(self) -> None:
        self._stop.set()
        if self._server is not None:
            await asyncio.gather(self._server, return_exceptions=True)

    async def call(
        self, method: str, path: str = "", body: Any = None, *, token: str = "user", expect: int = 200
    ) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            document = await answer.json(content_type=None)
            assert answer.status == expect, document
            return document

    async def submit(self, *argv: str, inputs: tuple[str, ...] = (), **more: Any) -> int:
        body = {"argv": list(argv or ("true",)), "inputs": list(inputs), **more}
        return int((await self.call("POST", body=body, expect=201))["job_id"])

    async def until(self, job: int, *states: str, seconds: float = 20.0) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while (found := await self.call("GET", f"/{job}"))["state"] not in states:
                assert found["state"] not in ENDED, found
                await asyncio.sleep(0.03)
        return dict(found)

    async def output(self, job: int, which: str = "stdout") -> bytes:
        headers = {"Authorization": "Bearer user"}
        kept = b""
        while True:
            url = f"{self.url}/{job}/{which}?offset={len(kept)}&wait_seconds=10"
            async with self.http.get(url, headers=headers) as answer:
                chunk = await answer.read()
                kept += chunk
                if not chunk and answer.headers["Capstan-Job-State"] in ENDED:
                    return kept

    async def until_true(self, condition: Any, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)


@pytest.fixture
async def door() -> AsyncIterator[JobDoor]:
    found = JobDoor()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def site(door: JobDoor, database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    token_file = tmp_path / "token"
    token_file.write_text("service\n")
    config = Config(
        database_url=database_url,
        door_urls=[f"http://127.0.0.1:{door.port}"],
        token_file=token_file,
        data_dir=tmp_path / "data",
        host_name="here",
        slots=2,
        verify_seconds=0.3,
        stage_retry_seconds=0.05,
        stage_tries_max=2,
        kill_after_seconds=0.5,
    )
    found = Site(door, config)
    await found.start()
    yield found
    await found.stop()
    await found.http.close()


async def test_a_job_is_held_until_its_last_input_is_there_and_released_within_a_second(site: Site) -> None:
    site.door.reads_by_itself = False
    for name in ("a", "b"):
        site.door.add(f"/exp/{name}")
    job = await site.submit("sh", "-c", "echo ran", inputs=("/exp/*",))
    await site.until(job, "staging")
    await site.until_true(lambda: site.door.staged)
    site.door.arrive("/exp/a")

    async def heard() -> dict[str, Any] | None:
        found = await site.call("GET", f"/{job}")
        return found if found["inputs"]["on_disk"] else None

    held = await eventually(heard)
    assert held is not None
    assert held["state"] == "staging"
    assert held["inputs"] == {"total": 2, "on_disk": 1, "bytes": 20}
    assert "1 of 2 inputs are on disk" in held["waiting"]
    assert held["volumes"] == ["E00001"]
    arrived = time.time()
    site.door.arrive("/exp/b")
    done = await site.until(job, "done")
    assert done["released_at"] - arrived < 1.0
    assert done["exit_code"] == 0
    assert await site.output(job) == b"ran\n"


async def test_a_job_that_waits_for_tapes_is_told_when_they_are_expected_and_nothing_when_nobody_knows(
    site: Site,
) -> None:
    site.door.reads_by_itself = False
    site.door.add("/exp/a")
    job = await site.submit(inputs=("/exp/a",))
    assert (await site.until(job, "staging")).get("expected_seconds") is None
    for seconds, told in ((720.0, 720.0), (None, None)):
        site.door.expected_seconds = seconds
        async with asyncio.timeout(10):
            while ((found := await site.call("GET", f"/{job}"))["expected_seconds"] is None) is not (told is None):
                await asyncio.sleep(0.03)
        assert found["expected_seconds"] == (told if told is None else pytest.approx(told, abs=15))
        sentence = "its inputs are expected on disk in about 12 min"
        assert (sentence in found["waiting"]) is (told is not None)
        unknown = "when is not known yet; `capstan explain E00001` tells what that volume waits for"
        assert (unknown in found["waiting"]) is (told is None)
    site.door.arrive("/exp/a")
    await site.until(job, "done")


async def test_a_job_that_is_held_for_space_is_told_a_time_behind_that_of_the_job_before_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.prestaging.HELD_SECONDS", 0.0)
    await site.stop()
    site.config = msgspec.structs.replace(site.config, staged_bytes_max=15)
    await site.start()
    site.door.reads_by_itself = False
    for name in ("a", "b"):
        site.door.add(f"/exp/{name}")
    first = await site.submit(inputs=("/exp/a",))
    await site.until(first, "staging")
    second = await site.submit(inputs=("/exp/b",))

    async def told(known: bool) -> dict[str, Any] | None:
        found = await site.call("GET", f"/{second}")
        assert found["state"] in ("accepted", "held")
        unknown = any("when is not known" in sentence for sentence in found["waiting"])
        return found if (found["expected_seconds"] is not None) is known and unknown is not known else None

    assert await eventually(lambda: told(False))
    site.door.expected_seconds = 720.0
    found = await eventually(lambda: told(True))
    assert found is not None
    # When the first is through, and then as long as that takes in all.
    assert found["expected_seconds"] == pytest.approx(2 * 720, abs=40)
    assert "its inputs are expected on disk in about 24 min" in found["waiting"]


async def test_inputs_of_many_jobs_are_asked_for_in_one_request_per_volume_each_file_once(site: Site) -> None:
    site.door.down = True  # all jobs are there before the first look
    for number in range(6):
        site.door.add(f"/exp/{number}", "E00001" if number % 2 else "E00002")
    site.door.down = False
    site.door.reads_by_itself = False
    jobs = await asyncio.gather(*(site.submit(inputs=(f"/exp/{number}", f"/exp/{number + 1}")) for number in range(5)))
    for job in jobs:
        await site.until(job, "staging")
    asked = sorted(path for paths in site.door.staged for path in paths)
    await site.until_true(lambda: sum(len(paths) for paths in site.door.staged) == 6)
    asked = sorted(path for paths in site.door.staged for path in paths)
    assert asked == [f"/exp/{number}" for number in range(6)]
    # Inputs of one job are of use together, on whatever volumes they lie.
    told = [site.door.cohorts[path] for path in asked]
    assert (told[0], told[-1]) == (f"job:{jobs[0]}", f"job:{jobs[-1]}")
    assert all(
        label in (f"job:{one}", f"job:{other}") for label, one, other in zip(told[1:-1], jobs, jobs[1:], strict=False)
    )
    site.door.arrive(*asked)
    for job in jobs:
        await site.until(job, "done")


async def test_inputs_are_pinned_before_they_are_staged_and_everything_is_given_back_at_the_end(site: Site) -> None:
    site.door.reads_by_itself = False
    wanted = site.door.add("/exp/a")
    job = await site.submit("true", inputs=("/exp/a",))
    await site.until_true(lambda: site.door.staged)
    assert site.door.pins == {f"job:{job}": {wanted.file}}
    site.door.arrive("/exp/a")
    await site.until(job, "done")
    directory = site.config.data_dir / "jobs" / str(job)
    await site.until_true(lambda: not site.door.pins and not site.door.job_tokens and not site.door.requests)
    await site.until_true(lambda: not directory.exists())


async def test_a_job_gets_exactly_its_environment_a_private_token_and_its_input_list(
    site: Site, tmp_path: Path
) -> None:
    local = tmp_path / "cached"
    local.write_bytes(b"x")
    site.door.add("/exp/a b", on_disk=True).cache_path = str(local)
    site.door.add("/exp/c", on_disk=True)
    script = (
        'env | cut -d= -f1 | sort | tr "\\n" " "; echo; cat "$CAPSTAN_INPUT_LIST"; cat "$CAPSTAN_TOKEN_FILE"; '
        'stat -c %a "$CAPSTAN_TOKEN_FILE"; ls -A | wc -l; echo "$CAPSTAN_JOB_ID"; echo "$PATH"'
    )
    job = await site.submit("sh", "-c", script, inputs=("/exp/a b", "/exp/c"))
    await site.until(job, "done")
    names, first, second, token, mode, entries, number, path = (await site.output(job)).decode().splitlines()
    assert set(names.split()) - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        "PATH", "HOME", "LANG", "CAPSTAN_URL", "CAPSTAN_TOKEN_FILE", "CAPSTAN_JOB_ID", "CAPSTAN_INPUT_LIST"
    }  # fmt: skip
    assert (first, second) == (f"/exp/a b\t{local}", "/exp/c\t")
    assert token.startswith("secret-")
    assert (mode, entries, number) == ("600", "0", str(job))
    assert path.endswith(os.environ["PATH"])


async def test_a_jobs_token_reads_and_stages_its_inputs_and_nothing_else(site: Site) -> None:
    site.door.add("/exp/a", on_disk=True)
    job = await site.submit("sleep", "30", inputs=("/exp/a",))
    await site.until(job, "running")
    (token,) = site.door.job_tokens.values()
    assert sorted(token.grants) == [("read", "/exp/a"), ("stage", "/exp/a")]
    assert token.owner == "ada"
    await site.call("POST", f"/{job}/cancel")
    await site.until(job, "cancelled")


@pytest.mark.parametrize("wanted", ["/exp/missing", "/exp/*.none", "/nowhere/*", "/exp/no*/x"])
async def test_a_missing_input_is_refused_at_submission_and_nothing_is_queued(site: Site, wanted: str) -> None:
    site.door.add("/exp/a")
    body = {"argv": ["true"], "inputs": ["/exp/a", wanted]}
    problem = await site.call("POST", body=body, expect=404)
    assert problem["code"] == "no_such_input"
    assert wanted in problem["detail"]
    assert (await site.call("GET"))["jobs"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"argv": []}, 400, "bad_request"),
        ({"argv": ["a\0b"]}, 400, "bad_request"),
        ({"argv": "true"}, 400, "bad_json"),
        ({"argv": ["true"], "surprise": 1}, 400, "bad_json"),
        ({"argv": ["true"], "priority": 1000}, 400, "bad_request"),
        ({"argv": ["x" * 200_000]}, 413, "too_large"),
        ({"argv": ["true"], "inputs": ["relative"]}, 400, "bad_path"),
        ({"argv": ["true"], "inputs": ["/exp"]}, 409, "is_a_directory"),
    ],
)
async def test_a_bad_submission_is_refused_with_a_stable_code(
    site: Site, body: dict[str, Any], status: int, code: str
) -> None:
    site.door.add("/exp/a")
    assert (await site.call("POST", body=body, expect=status))["code"] == code


async def test_only_the_recorded_token_may_run_programs_here(site: Site) -> None:
    assert (await site.call("POST", body={"argv": ["true"]}, token="stranger", expect=403))["code"] == "denied"
    assert (await site.call("POST", body={"argv": ["true"]}, token="forged", expect=401))["code"] == "unauthenticated"


async def test_another_owner_sees_no_job_of_mine_and_cancels_none(site: Site) -> None:
    job = await site.submit("sleep", "30")
    assert (await site.call("GET", token="stranger"))["jobs"] == []
    for method, path in (("GET", f"/{job}"), ("POST", f"/{job}/cancel"), ("GET", f"/{job}/stdout")):
        assert (await site.call(method, path, token="stranger", expect=403))["code"] == "denied"
    assert (await site.call("GET", "/999", expect=404))["code"] == "not_found"
    await site.call("POST", f"/{job}/cancel")
    await site.until(job, "cancelled")


async def test_a_job_whose_library_is_down_waits_with_that_reason_and_goes_on_when_it_is_up(site: Site) -> None:
    site.door.libraries_down["west"] = "the robot is being repaired"
    site.door.add("/exp/w", "W00001")
    site.door.add("/exp/both", "W00001", "E00001")
    waits = await site.submit(inputs=("/exp/w",))
    goes = await site.submit(inputs=("/exp/both",))
    await site.until(goes, "done")
    explained = await site.call("GET", f"/{waits}/explain")
    assert explained["kind"] == "job"
    assert any("library west is down (the robot is being repaired)" in one for one in explained["sentences"])
    assert not any("/exp/w" in paths for paths in site.door.staged)
    site.door.libraries_down.clear()
    await site.until(waits, "done")


async def test_a_replica_lost_before_the_start_is_staged_again(site: Site) -> None:
    blockers = [await site.submit("sleep", "30") for _ in range(2)]
    for blocker in blockers:
        await site.until(blocker, "running")
    lost = site.door.add("/exp/a")
    job = await site.submit("true", inputs=("/exp/a",))
    await site.until(job, "released")
    lost.on_disk = False
    site.door.reads_by_itself = False
    await site.until(job, "staging")
    await site.until_true(lambda: len(site.door.staged) == 2)
    for blocker in blockers:
        await site.call("POST", f"/{blocker}/cancel")
        await site.until(blocker, "cancelled")
    assert (await site.call("GET", f"/{job}"))["state"] == "staging"
    site.door.arrive("/exp/a")
    await site.until(job, "done")


async def test_an_input_that_cannot_be_staged_fails_the_job_with_the_answer(site: Site) -> None:
    site.door.add("/exp/a")
    site.door.errors["/exp/a"] = "no copy is left"
    job = await site.submit(inputs=("/exp/a",))
    failed = await site.until(job, "failed")
    assert failed["reason"] == "/exp/a could not be staged in 2 tries: no copy is left"
    assert (failed["exit_code"], failed["started_at"]) == (None, None)
    await site.until_true(lambda: not site.door.pins)


async def test_an_input_removed_while_the_job_waits_fails_it(site: Site) -> None:
    site.door.reads_by_itself = False
    site.door.add("/exp/a")
    job = await site.submit(inputs=("/exp/a",))
    await site.until(job, "staging")
    del site.door.files["/exp/a"]
    assert "was removed" in (await site.until(job, "failed"))["reason"]


async def test_a_job_that_can_never_fit_the_cache_fails_with_the_sizes(site: Site) -> None:
    site.door.add("/exp/a", size=2_000_000)
    job = await site.submit(inputs=("/exp/a",))
    assert "the cache holds" in (await site.until(job, "failed"))["reason"]


async def test_cancelling_a_held_job_withdraws_its_staging_and_it_never_runs(site: Site, tmp_path: Path) -> None:
    site.door.reads_by_itself = False
    site.door.add("/exp/a")
    job = await site.submit("touch", str(tmp_path / "ran"), inputs=("/exp/a",))
    await site.until_true(lambda: site.door.requests)
    await site.call("POST", f"/{job}/cancel")
    cancelled = await site.until(job, "cancelled")
    assert cancelled["started_at"] is None
    await site.until_true(lambda: not site.door.pins and not site.door.requests)
    assert not (tmp_path / "ran").exists()


async def test_a_program_that_is_not_there_fails_the_job_with_127_and_a_reason(site: Site) -> None:
    failed = await site.until(await site.submit("no-such-program"), "failed")
    assert failed["exit_code"] == 127
    assert "no-such-program" in failed["reason"]


async def test_whole_volumes_bring_everything_on_the_volume(site: Site) -> None:
    for name in ("a", "b", "c"):
        site.door.add(f"/exp/{name}")
    job = await site.submit(inputs=("/exp/b",), whole_volumes=True)
    await site.until(job, "done")
    assert sorted(site.door.staged[0]) == ["/exp/a", "/exp/b", "/exp/c"]


async def test_stdout_and_stderr_follow_the_job_while_it_runs(site: Site) -> None:
    job = await site.submit(
        "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; echo no >&2; exit 3"
    )
    await site.until(job, "running")
    headers = {"Authorization": "Bearer user"}
    async with site.http.get(f"{site.url}/{job}/stdout?wait_seconds=10", headers=headers) as answer:
        assert await answer.read() == b"one\n"
        assert answer.headers["Capstan-Job-State"] == "running"
    (work,) = (site.config.data_dir / "local").glob("*/work")
    (work / "go").touch()
    assert await site.output(job) == b"one\ntwo\n"
    assert await site.output(job, "stderr") == b"no\n"
    assert (await site.until(job, "failed"))["exit_code"] == 3


async def test_jobs_are_listed_by_state_in_pages(site: Site) -> None:
    jobs = [await site.submit("true") for _ in range(3)]
    for job in jobs:
        await site.until(job, "done")
    first = await site.call("GET", "?state=done&limit=2")
    assert [job["id"] for job in first["jobs"]] == jobs[:2]
    rest = await site.call("GET", f"?state=done&limit=2&after={first['next']}")
    assert [job["id"] for job in rest["jobs"]] == jobs[2:]
    assert rest["next"] is None
    assert (await site.call("GET", "?state=running"))["jobs"] == []
    assert (await site.call("GET", "?state=sleeping", expect=400))["code"] == "bad_request"


async def test_it_registers_at_the_door_and_tells_its_health_and_metrics(site: Site) -> None:
    await site.until_true(lambda: site.door.heartbeats)
    assert site.door.heartbeats[0]["kind"] == "jobserver"
    base = site.url.removesuffix("/api/jobs/v1/jobs")
    assert site.door.heartbeats[0]["url"] == base
    async with site.http.get(f"{base}/healthz") as answer:
        assert (await answer.json())["ok"] is True
    async with site.http.get(f"{base}/metrics") as answer:
        assert 'capstan_jobs{state="held"} 0.0' in await answer.text()


async def test_the_door_may_go_away_and_come_back(site: Site) -> None:
    site.door.reads_by_itself = False
    site.door.add("/exp/a")
    job = await site.submit(inputs=("/exp/a",))
    await site.until_true(lambda: site.door.staged)
    site.door.down = True
    site.door.files["/exp/a"].on_disk = True
    await site.until_true(lambda: site.door.refused >= 2)
    site.door.down = False
    site.door.arrive("/exp/a")
    await site.until(job, "done")


async def test_a_second_job_server_in_the_same_directory_is_refused(site: Site) -> None:
    with pytest.raises(Exception, match="another job server"):
        await serve(site.config, ready=lambda port: None, stop=asyncio.Event())


async def test_the_data_directory_lets_nobody_else_in(site: Site) -> None:
    assert stat.S_IMODE(site.config.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((site.config.data_dir / "local").stat().st_mode) == 0o700


SERVER = """
import asyncio, sys, msgspec
from pathlib import Path
from jobserver.config import Config
from jobserver.server import serve
config = msgspec.json.decode(sys.argv[1], type=Config, dec_hook=lambda kind, value: kind(value))
asyncio.run(serve(config, ready=lambda port: print(port, flush=True), stop=asyncio.Event()))
"""


class KilledServer:
    """The job server as a process of its own, for kill -9."""

    def __init__(self, config: Config) -> None:
        self._config = msgspec.json.encode(config, enc_hook=str).decode()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER, self._config, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        port = int(await self._process.stdout.readline())
        return f"http://127.0.0.1:{port}/api/jobs/v1/jobs"

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


@pytest.mark.parametrize("seed", range(2))
async def test_killed_at_any_moment_no_job_runs_twice_none_is_stuck_and_no_pin_is_left(
    site: Site, tmp_path: Path, seed: int
) -> None:
    await site.stop()
    server = KilledServer(site.config)
    site.url = await server.start()
    random = Random(seed)
    for number in range(6):
        site.door.add(f"/exp/{number}", random.choice(["E00001", "W00001"]))
    runs = tmp_path / "runs"
    jobs = []
    for number in range(6):
        inputs = tuple(f"/exp/{file}" for file in random.sample(range(6), 2))
        jobs.append(await site.submit("sh", "-c", f"echo {number} >> {runs}; sleep 0.1", inputs=inputs))
    try:
        for _ in range(3):
            await asyncio.sleep(random.random() * 0.3)
            await server.kill()
            site.url = await server.start()
        for job in jobs:
            await site.until(job, "done")
        assert sorted(runs.read_text().split()) == [str(number) for number in range(6)]
        await site.until_true(lambda: not site.door.pins)
    finally:
        await server.kill()

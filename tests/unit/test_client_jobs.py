"""Promises of client.jobs and tjob, against a job server's API in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.cli import tjob
from client.jobmessages import JOB_STATE_HEADER, Job, JobInputs, Jobs, SubmitBody
from client.jobs import describe, exit_code_of
from client.serving import json_body, json_response, listen, problem_middleware


class FakeJobs:
    """One job, that writes a piece each time somebody looks, and ends when all is written."""

    def __init__(self) -> None:
        self.submitted: list[SubmitBody] = []
        self.pieces = {"stdout": [b"one\n", b"tw", b"o\n"], "stderr": [b"warning\n"]}
        self.ends: dict[str, Any] = {"state": "failed", "exit_code": 7, "reason": "it ended with exit code 7"}
        self.lose_answers = 0

    async def submit(self, request: web.Request) -> web.StreamResponse:
        self.submitted.append(await json_body(request, SubmitBody))
        if self.lose_answers:
            assert request.transport is not None
            request.transport.abort()
        return json_response({"job_id": 12}, status=201)

    async def get(self, _: web.Request) -> web.StreamResponse:
        over = not any(self.pieces.values())
        values: dict[str, Any] = self.ends if over else {"state": "running"}
        return json_response(Job(id=12, name="n", owner="ann", argv=["x"], **values))

    async def list(self, _: web.Request) -> web.StreamResponse:
        jobs = [Job(id=11 + n, name=f"j{n}", owner="ann", argv=["x"], state="staging") for n in range(2)]
        jobs[0].expected_seconds = 700.0
        return json_response(Jobs(jobs=jobs))

    async def output(self, request: web.Request) -> web.StreamResponse:
        left = self.pieces[request.match_info["stream"]]
        content = left.pop(0) if left else b""
        over = not any(self.pieces.values())
        await asyncio.sleep(0.01)
        return web.Response(body=content, headers={JOB_STATE_HEADER: self.ends["state"] if over else "running"})


@pytest.fixture
async def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FakeJobs]:
    fake = FakeJobs()
    app = web.Application(middlewares=[problem_middleware])
    app.router.add_post("/api/jobs/v1/jobs", fake.submit)
    app.router.add_get("/api/jobs/v1/jobs", fake.list)
    app.router.add_get("/api/jobs/v1/jobs/12", fake.get)
    app.router.add_get("/api/jobs/v1/jobs/12/{stream}", fake.output)
    listener = await listen(app)
    monkeypatch.setenv("CAPSTAN_URL", f"http://127.0.0.1:{listener.port}")
    monkeypatch.setenv("CAPSTAN_TOKEN", "secret")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield fake
    await listener.close()


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(tjob.main, list(arguments))


async def test_submit_prints_the_number_of_the_job(jobs: FakeJobs, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code = await run(
        "submit", "--input", "/exp/*", "--input", "/f", "--name", "n", "--", "./run.sh", "--wait", "--json"
    )
    assert (code, capfdbinary.readouterr().out) == (0, b"12\n")
    body = jobs.submitted[0]
    assert (body.inputs, body.argv) == (["/exp/*", "/f"], ["./run.sh", "--wait", "--json"])


async def test_submit_wait_copies_the_output_and_ends_as_the_job(
    jobs: FakeJobs, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = await run("submit", "--wait", "--", "x")
    out, err = capfdbinary.readouterr()
    assert (code, out, err) == (7, b"one\ntwo\n", b"warning\n")


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ({"state": "done", "exit_code": 0}, 0),
        ({"state": "failed", "signal": 9, "reason": "it was killed"}, 137),
        ({"state": "failed", "reason": "it was lost"}, 125),
        ({"state": "cancelled"}, 125),
    ],
)
async def test_the_exit_code_of_a_wait_is_the_jobs(
    jobs: FakeJobs, ends: dict[str, Any], code: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs.pieces, jobs.ends = {"stdout": [], "stderr": []}, ends
    assert await run("submit", "--wait", "--json", "--", "x") == code
    out, err = capfdbinary.readouterr()
    assert json.loads(out)["items"][0]["state"] == ends["state"]
    assert ends.get("reason", "").encode() in err


async def test_a_job_whose_acceptance_was_lost_is_not_submitted_twice(
    jobs: FakeJobs, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs.lose_answers = 1
    assert await run("submit", "--", "x") == 1
    assert len(jobs.submitted) == 1
    assert b"may have been done or not" in capfdbinary.readouterr().err


async def test_followed_output_in_json_is_one_document_per_line(
    jobs: FakeJobs, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    jobs.pieces["stderr"] = []
    assert await run("output", "12", "--follow", "--json") == 0
    texts = [json.loads(line)["text"] for line in capfdbinary.readouterr().out.splitlines()]
    assert texts == ["one\n", "tw", "o\n"]


async def test_the_list_says_when_each_job_is_expected_to_have_its_inputs(
    jobs: FakeJobs, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert await run("list") == 0
    head, known, unknown = capfdbinary.readouterr().out.decode().splitlines()
    assert head.split() == ["ID", "STATE", "INPUTS", "EXPECTED", "IN", "NAME"]
    assert "about 12 min" in known
    assert unknown.split() == ["12", "staging", "0/0", "j1"]


def test_a_job_is_described_by_its_state_its_inputs_and_what_it_waits_for() -> None:
    job = Job(
        id=1, name="", owner="", argv=[], state="held", inputs=JobInputs(total=3, on_disk=1), waiting=["no drive free"]
    )
    assert describe(job) == "held, 1 of 3 inputs on disk: no drive free"
    job.expected_seconds = 700.0
    assert describe(job) == "held, expected on disk in about 12 min, 1 of 3 inputs on disk: no drive free"
    assert exit_code_of(job) == 125

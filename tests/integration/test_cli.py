"""Promises of the user commands, against a whole site: real catalog, door, cache server, movers and virtual tape."""

from __future__ import annotations

import asyncio
import errno
import importlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from capstan.main import main as capstan
from catalog.database import Database
from tests.integration.commands import Answer, Run, answer_of
from tests.integration.onesite import Site, content, running_site
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def site(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    (tmp_path / "site").mkdir()
    # The servers run in this process, and their events are not the commands' output.
    events = (tmp_path / "events").open("w")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(events))
    async with running_site(database, tmp_path / "site") as found:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("CAPSTAN_URL", found.url)
        monkeypatch.setenv("CAPSTAN_TOKEN", found.token)
        (tmp_path / "user").mkdir()
        monkeypatch.chdir(tmp_path / "user")
        yield found
    structlog.reset_defaults()
    events.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command, by its name, with its arguments."""

    async def one(command: str, *arguments: str) -> Answer:
        main = capstan if command == "capstan" else importlib.import_module(f"client.cli.{command}").main
        return await answer_of(main, *arguments, capsys=capsys)

    return one


def document(answer: Answer) -> dict[str, Any]:
    """The one JSON document on stdout."""
    lines = answer[1].splitlines()
    assert len(lines) == 1, answer
    found: dict[str, Any] = json.loads(lines[0])
    return found


def make_tree(directory: Path) -> dict[str, bytes]:
    files = {
        "a.dat": content(1, 300_000),
        "b.dat": content(2, 9_000_000),
        "sub/c d%#?é": content(3, 1_000),
        "sub/empty": b"",
    }
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    (directory / "bare").mkdir()
    return files


def read_tree(directory: Path) -> dict[str, bytes]:
    return {str(one.relative_to(directory)): one.read_bytes() for one in directory.rglob("*") if one.is_file()}


async def test_a_tree_goes_to_tape_and_comes_back(site: Site, run: Run) -> None:
    files = make_tree(Path("D"))
    os.symlink("a.dat", "D/link")
    os.mkfifo("D/fifo")

    code, out, err = await run("tput", "-r", "D", "/exp/a")
    assert (code, out) == (0, "4 files, 9.3 MB: on disk, not yet on tape\n")
    assert "1 link and 1 special file skipped" in err

    # Again: nothing is sent twice, and --wait comes back when all is safe.
    again = await run("tput", "-r", "--wait", "--json", "D", "/exp/a")
    items = [item for item in document(again)["items"] if item["kind"] == "file"]
    assert [item["already"] for item in items] == [True] * 4
    assert {item["state"] for item in items} == {"safe on tape"}

    code, out, _ = await run("tls", "-l", "-r", "/exp")
    assert code == 0
    assert out.count("disk+tape") == 4

    await site.drop_from_cache("/exp")

    async def on_tape_only() -> bool:
        return "disk" not in (await run("tls", "-l", "-r", "/exp"))[1]

    await eventually(on_tape_only)
    code, out, err = await run("tget", "-r", "/exp/a", "E")
    assert (code, out, err) == (0, "", "4 files, 9.3 MB\n")
    assert read_tree(Path("E")) == files
    assert Path("E/bare").is_dir()
    for name in files:
        assert Path("E", name).stat().st_mtime_ns == Path("D", name).stat().st_mtime_ns
    # The recall was this command's: nothing stays pinned for it.
    assert await site.scalar("select count(*) from pin") == 0


async def test_staging_ahead_of_need(site: Site, run: Run) -> None:
    make_tree(Path("D"))
    assert (await run("tput", "-r", "--wait", "D", "/exp"))[0] == 0
    await site.drop_from_cache("/exp")
    answer = await run("tstage", "--wait", "--json", "/exp/*.dat", "/exp/none", "--timeout", "60")
    assert answer[0] == 3
    found = document(answer)
    assert [item["ok"] for item in found["items"]] == [False, True, True]
    assert (await run("tls", "-l", "/exp/a.dat"))[1].startswith("disk+tape")
    code, out, _ = await run("tstage", "status", found["request_id"])
    assert code == 0
    assert "2 files: 2 completed" in out
    assert await site.scalar("select count(*) from pin") == 2
    assert (await run("tstage", "release", found["request_id"]))[0] == 0
    assert await site.scalar("select count(*) from pin") == 0
    assert (await run("tstage", "status", "999999"))[0] == 4
    # What the drives did is charged, whether or not their mounts have ended.
    told = json.loads((await run("capstan", "usage", "--json"))[1])["items"]
    assert [sum(one[name] for one in told) for name in ("files_written", "files_read")] == [4, 2]
    assert all(one["drive_seconds"] > 0 for one in told)


async def test_where_things_are_put(site: Site, run: Run) -> None:
    Path("f").write_bytes(b"f")
    Path("g").write_bytes(b"gg")
    assert (await run("tmkdir", "-p", "/exp/dir"))[0] == 0
    assert (await run("tput", "f", "/exp/name"))[0] == 0
    assert (await run("tput", "f", "/exp/dir"))[0] == 0
    assert (await run("tput", "f", "g", "/exp/new"))[0] == 0
    listed = document(await run("tls", "-r", "--json", "/exp"))["items"]
    files = [entry["path"] for entry in listed if entry["kind"] == "file"]
    assert files == ["/exp/dir/f", "/exp/name", "/exp/new/f", "/exp/new/g"]

    # Several into one directory, as a shell's cp does; a single name is the file's.
    assert (await run("tget", "/exp/new/*", "in"))[0] == 0
    assert sorted(os.listdir("in")) == ["f", "g"]
    assert (await run("tget", "/exp/new/g", "copy"))[0] == 0
    assert Path("copy").read_bytes() == b"gg"

    # Of several, what can be done is done.
    assert (await run("tmv", "/exp/name", "/exp/none", "/exp/new", "/exp/dir"))[0] == 3
    assert (await run("tls", "-r", "/exp/dir"))[1].split() == ["f", "name", "new/", "new/f", "new/g"]


async def test_names_are_renamed_and_removed(site: Site, run: Run) -> None:
    make_tree(Path("D"))
    assert (await run("tput", "-r", "D", "/exp"))[0] == 0
    assert (await run("tmv", "/exp/a.dat", "/exp/sub/"))[0] == 0
    code, _, err = await run("tmv", "/exp/b.dat", "/exp/sub/a.dat")
    assert (code, "exists already" in err) == (1, True)
    assert (await run("trm", "/exp"))[0] == 2
    code, out, _ = await run("trm", "-r", "/exp")
    # Those that were on tape already can be had back, and it says how.
    assert (code, out.startswith("7 names removed")) == (0, True)
    assert document(await run("tls", "--json"))["items"] == []
    assert document(await run("tls", "--json", "/")) == {"items": []}


async def test_what_was_removed_or_replaced_is_had_back_from_tape(site: Site, run: Run) -> None:
    Path("f").write_bytes(content(5, 50_000))
    Path("g").write_bytes(content(6, 100))
    await run("tput", "--wait", "f", "/exp/a b/f")
    code, out, _ = await run("trm", "/exp/a b/f")
    assert code == 0
    assert "1 name removed; `capstan recycle restore '/exp/a b/f'` undoes it until" in out
    await run("tput", "g", "/exp/a b/f")
    assert (await run("capstan", "recycle", "restore", "/exp/a b/f"))[0] == 1
    answer = await run("capstan", "recycle", "restore", "/exp/a b/f", "--to", "/old/f", "--parents")
    assert answer[:2] == (0, "/old/f restored\n")
    assert (await run("tget", "/old/f", "copy"))[0] == 0
    assert Path("copy").read_bytes() == content(5, 50_000)

    # What was on no tape yet says so: there is nothing to have back.
    removed = json.loads((await run("trm", "--json", "-r", "/exp", "/old"))[1])
    recycled = {item["path"]: item["recycled"] for item in removed["items"]}
    assert recycled["/old/f"]
    code, out, _ = await run("capstan", "recycle", "ls", "--json", "/old")
    assert [item["path"] for item in json.loads(out)["items"]] == ["/old/f"]
    code, out, _ = await run("capstan", "explain", "/old/f")
    assert "recycle bin" in out
    code, out, _ = await run("capstan", "recycle", "purge", "/old", "--reason", "done")
    assert (code, out) == (0, "1 file purged, 50.0 kB\n")
    assert (await run("capstan", "recycle", "restore", "/old/f"))[0] == 4


async def test_an_existing_name_is_replaced_only_when_told(site: Site, run: Run) -> None:
    Path("f").write_bytes(b"one")
    Path("g").write_bytes(b"two")
    assert (await run("tput", "f", "/exp/f"))[0] == 0
    assert (await run("tput", "f", "/exp/f"))[0] == 0
    code, _, err = await run("tput", "g", "/exp/f")
    assert code == 1
    assert "with other content" in err
    assert "--force" in err
    assert (await run("tput", "--force", "g", "/exp/f"))[0] == 0
    assert (await run("tget", "/exp/f", "h"))[0] == 0
    assert Path("h").read_bytes() == b"two"


WRONG: tuple[tuple[str, list[str], int], ...] = (
    ("tls", ["/none"], 4),
    ("tget", ["/none", "x"], 4),
    ("tput", ["nofile", "/exp/x"], 4),
    ("tput", ["here", "/exp/../x"], 1),
    ("tput", ["--class", "none", "here", "/exp/x"], 1),
    ("tput", ["."], 2),
    ("tput", [".", "/exp"], 2),
    ("tput", ["-j", "0", "here", "/x"], 2),
    ("tput", ["here", "here", "/exp/"], 2),
    ("tget", ["onlyone"], 2),
    ("tmkdir", ["/no/parent"], 1),
    ("trm", ["/none"], 4),
    ("tstage", [], 2),
    ("tstage", ["status"], 2),
    ("tjob", ["submit", "true"], 2),
    ("tjob", ["submit"], 2),
)


async def test_errors_have_an_exit_code_and_say_what_is_wrong(site: Site, run: Run) -> None:
    Path("here").write_bytes(b"x")
    for command, arguments, code in WRONG:
        answer = await run(command, *arguments)
        assert (answer[0], answer[1]) == (code, ""), (command, arguments, answer)
        assert answer[2].startswith((f"{command}: ", "usage: "))
        assert "Traceback" not in answer[2]


async def test_a_bad_token_is_denied_and_a_dead_door_is_named(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPSTAN_TOKEN", "wrong")
    code, _, err = await run("tls", "/")
    assert (code, "CAPSTAN_TOKEN" in err) == (5, True)
    monkeypatch.setenv("CAPSTAN_URL", "http://127.0.0.1:9")
    code, out, err = await run("tls", "--json", "/")
    assert code == 1
    assert os.strerror(errno.ECONNREFUSED) in err
    assert json.loads(out)["errors"][0]["error"]["code"] == "door_unreachable"


async def test_the_next_door_of_the_list_is_used(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPSTAN_URL", f"http://127.0.0.1:9,{site.url}")
    assert (await run("tls", "/"))[0] == 0


async def test_a_wait_for_tape_that_cannot_come_ends_in_time_and_says_why(site: Site, run: Run) -> None:
    Path("f").write_bytes(b"data")
    assert (await run("tput", "--wait", "f", "/exp/f"))[0] == 0
    await site.drop_from_cache("/exp")
    for library in ("east", "west"):
        await site.set_state("libraries", library, "down")
    # The mount that has just written would serve it too.
    await eventually(lambda: site.scalar("select count(*) = 0 from mount"), seconds=30)
    code, _, err = await run("tget", "--timeout", "0.5", "/exp/f", "g")
    assert code == 6
    assert "wanted from volume" in err
    assert not Path("g").exists()
    assert await site.scalar("select count(*) from recall") == 0


async def test_a_jobs_input_list_is_copied_from_the_cache_and_else_fetched(site: Site, run: Run) -> None:
    files = {f"/exp/{name}": content(number, 50_000) for number, name in enumerate("abc")}
    for path, data in files.items():
        Path(path[5:]).write_bytes(data)
        assert (await run("tput", path[5:], path))[0] == 0
    Path("readable").write_bytes(files["/exp/a"])
    Path("damaged").write_bytes(content(9, 50_000))
    Path("list").write_text("/exp/a\treadable\n/exp/b\tdamaged\n/exp/c\t\n")
    code, out, err = await run("tget", "--list", "list", "w")
    assert (code, out, err) == (0, "", "3 files, 150.0 kB\n")
    assert read_tree(Path("w")) == {path[5:]: data for path, data in files.items()}


async def test_equal_base_names_are_refused_before_anything_is_copied(site: Site, run: Run) -> None:
    Path("f").write_bytes(b"x")
    Path("list").write_text("/exp/a/f\tf\n/exp/b/f\tf\n")
    code, _, err = await run("tget", "--list", "list", "w")
    assert code == 1
    assert "/exp/a/f and /exp/b/f have the same base name" in err
    assert not Path("w").exists()


async def test_sigint_ends_with_130_one_line_and_a_part_to_go_on_from(site: Site, run: Run) -> None:
    data = content(5, 30_000_000)
    Path("f").write_bytes(data)
    assert (await run("tput", "f", "/exp/f"))[0] == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SLOW_TGET, "/exp/f", "g", env=dict(os.environ), stderr=asyncio.subprocess.PIPE,
        cwd=Path.cwd(),
    )  # fmt: skip

    async def something_arrived() -> bool:
        return any(part.stat().st_size for part in Path().glob("g.*.part"))

    await eventually(something_arrived)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err.count(b"\n")) == (130, 1)
    assert b"interrupted" in err
    assert not Path("g").exists()
    assert (await run("tget", "/exp/f", "g"))[0] == 0
    assert Path("g").read_bytes() == data


#: a tget that takes its time over each step, so that the test can interrupt it
_SLOW_TGET = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from client import transfer
quick = transfer.Part.append
def slow(part, chunks):
    quick(part, chunks)
    time.sleep(0.2)
transfer.Part.append = slow
from client.cli.tget import main
sys.exit(main())
"""


async def test_options_may_stand_between_names_and_behind_dashes_all_are_names(site: Site, run: Run) -> None:
    for name in ("f", "g", "-x"):
        Path(name).write_bytes(content(1, 10))
    assert (await run("tput", "f", "g", "--json", "/exp/d/"))[0] == 0
    assert (await run("tput", "--", "-x", "/exp/d/"))[0] == 0
    assert (await run("tls", "/exp/d"))[1].split() == ["-x", "f", "g"]


async def test_a_device_or_pipe_that_is_named_is_neither_stored_nor_replaced(site: Site, run: Run) -> None:
    os.mkfifo("pipe")
    Path("f").write_bytes(b"x")
    assert (await run("tput", "f", "/exp/f"))[0] == 0
    for command, arguments in (("tput", ("pipe", "/exp/g")), ("tget", ("/exp/f", "pipe"))):
        code, _, err = await run(command, *arguments)
        assert code == 1
        assert "pipe is not a regular file" in err
    assert Path("pipe").is_fifo()


async def test_what_several_patterns_match_is_fetched_once(site: Site, run: Run) -> None:
    Path("f").write_bytes(b"x")
    assert (await run("tput", "f", "/exp/f"))[0] == 0
    answer = await run("tget", "--json", "/exp/f", "/exp/*", "/exp/f", "D")
    assert [item["path"] for item in document(answer)["items"]] == ["/exp/f"]


async def test_wrong_use_and_names_that_are_not_utf8_give_a_document_too(site: Site, run: Run) -> None:
    Path("d").mkdir()
    Path(os.fsdecode(b"d/\xff")).write_bytes(b"x")
    assert document(await run("tput", "--json", "d", "/exp/d"))["error"]["code"] == "usage"
    answer = await run("tput", "--json", "-r", "d", "/exp/d")
    assert answer[0] == 3
    assert [item["ok"] for item in document(answer)["items"]] == [True, False]
    for command in ("tls", "trm", "tstage"):
        code, _, err = await run(command, os.fsdecode(b"/exp/\xff"))
        assert (code, "not valid UTF-8" in err) == (1, True), command

"""Promises of the library, against a door and a cache server in memory (tests/clientdoor.py)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import stamina
from aiohttp import web

from catalog.errors import (
    BadRequest,
    CapstanError,
    CatalogUnreachable,
    Damaged,
    DigestMismatch,
    DoorUnreachable,
    Exists,
    NotFound,
    TimedOut,
)
from client import transfer
from client.fetching import Fetch, Wanted
from client.locations import Door
from client.session import Session
from client.staging import StageFailed
from client.transfer import ChangedWhileRead
from client.transport import MaybeDone
from tests.clientdoor import FakeSite, Fault, adler, fake_site

DEAD = Door(url="http://127.0.0.1:9", token="secret")


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    async with fake_site() as found:
        found.directories.add("/exp")
        yield found


@pytest.fixture
async def session(site: FakeSite) -> AsyncIterator[Session]:
    async with Session(site.doors, patience_seconds=3.0) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    stamina.instrumentation.set_on_retry_hooks([])
    monkeypatch.setattr("client.staging.POLL_SECONDS_MIN", 0.01)


def answers(status: int, code: str | None = None) -> Fault:
    async def fault(_: web.Request) -> web.StreamResponse:
        if code == "catalog_unreachable":
            raise CatalogUnreachable(what="the catalog", why="it is starting", retry_after_seconds=0.01)
        return web.Response(status=status, text="<html>from a proxy</html>")

    return fault


async def hang_up(request: web.Request) -> web.StreamResponse | None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


# ---- doors


async def test_the_next_door_is_asked_when_one_does_not_answer(site: FakeSite) -> None:
    site.files["/exp/f"] = b"data"
    async with Session((DEAD, *site.doors)) as session:
        assert (await session.stat("/exp/f")).size == 4


@pytest.mark.parametrize("status", [502, 503])
async def test_an_answer_of_a_proxy_without_a_problem_document_is_no_answer(site: FakeSite, status: int) -> None:
    site.files["/exp/f"] = b"data"
    site.door_faults = [answers(status)]
    async with Session((*site.doors, *site.doors)) as session:
        assert (await session.stat("/exp/f")).size == 4


async def test_when_no_door_answers_the_error_comes_soon_and_names_the_door() -> None:
    async with Session((DEAD,), first_contact_seconds=0.2) as session:
        with pytest.raises(DoorUnreachable, match=r"127\.0\.0\.1:9"):
            await session.whoami()


async def test_a_catalog_that_is_starting_is_waited_for(site: FakeSite, session: Session) -> None:
    site.files["/exp/f"] = b"data"
    site.door_faults = [answers(503, "catalog_unreachable")] * 2
    assert (await session.stat("/exp/f")).size == 4


async def test_what_may_have_been_done_is_not_done_again(site: FakeSite, session: Session) -> None:
    site.files["/exp/f"] = b"data"
    site.door_faults = [hang_up]
    with pytest.raises(MaybeDone):
        await session.move("/exp/f", "/exp/g")
    assert [seen[1] for seen in site.seen] == ["MOVE"]


async def test_a_lost_answer_to_what_is_safe_to_repeat_is_asked_for_again(site: FakeSite, session: Session) -> None:
    site.files["/exp/f"] = b"data"
    site.door_faults = [hang_up]
    assert (await session.stat("/exp/f")).size == 4


async def test_problem_documents_become_the_typed_errors_that_the_server_raised(session: Session) -> None:
    with pytest.raises(NotFound, match="/exp/none does not exist"):
        await session.stat("/exp/none")


async def test_an_error_without_a_document_is_judged_by_its_status(site: FakeSite, session: Session) -> None:
    site.door_faults = [answers(418)]
    with pytest.raises(BadRequest, match="418"):
        await session.stat("/exp/f")


async def test_the_token_is_shown_to_the_door_and_never_to_another_port(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"data")
    await session.put(tmp_path / "f", "/exp/f")
    await session.get("/exp/f", tmp_path / "g")
    shown = {(server, token) for server, _, _, token, _ in site.seen}
    assert shown == {("door", "Bearer secret"), ("cache", None)}


# ---- put


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
@pytest.mark.parametrize("whole_max", [0, 8 << 20])
async def test_what_is_put_is_what_is_got_with_its_mode_and_time(
    site: FakeSite, session: Session, tmp_path: Path, size: int, whole_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WHOLE_BYTES_MAX", whole_max)
    source = tmp_path / "f"
    source.write_bytes(os.urandom(size))
    put = await session.put(source, "/exp/ü %#?.dat")
    assert (put.stored.size, put.stored.adler32) == (size, adler(source.read_bytes()))
    await session.get("/exp/ü %#?.dat", tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == source.read_bytes()
    assert (tmp_path / "g").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f", "g"]


async def test_missing_parents_are_made(site: FakeSite, session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    await session.put(tmp_path / "f", "/exp/a/b/c/f")
    assert {"/exp/a", "/exp/a/b", "/exp/a/b/c"} <= site.directories
    assert site.files["/exp/a/b/c/f"] == b"data"


Change = Callable[[Path], None]


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, 100)


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def _replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [_grow, _shrink, _rewrite, _replace])
async def test_a_file_that_changes_while_it_is_read_is_not_stored(
    site: FakeSite, session: Session, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WHOLE_BYTES_MAX", 0)
    source = tmp_path / "f.dat"
    source.write_bytes(os.urandom(4_000_000))
    changed = False

    def on_progress(count: int) -> None:
        nonlocal changed
        if count > 0 and not changed:
            changed = True
            change(source)

    with pytest.raises(ChangedWhileRead):
        await session.put(source, "/exp/f", progress=on_progress)
    assert changed
    assert "/exp/f" not in site.files


async def test_a_server_that_stored_other_bytes_is_found_out_and_the_file_removed(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"data")
    site.lie = "deadbeef"
    with pytest.raises(DigestMismatch):
        await session.put(tmp_path / "f", "/exp/f")
    assert "/exp/f" not in site.files


async def test_the_same_content_already_there_is_success_and_other_content_is_not(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = b"data"
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "g").write_bytes(b"atad")
    assert (await session.put(tmp_path / "f", "/exp/f")).already
    with pytest.raises(Exists, match="other content"):
        await session.put(tmp_path / "g", "/exp/f")
    await session.put(tmp_path / "g", "/exp/f", replace=True)
    assert site.files["/exp/f"] == b"atad"


async def test_a_put_whose_answer_is_lost_ends_well(site: FakeSite, session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")

    async def store_and_hang_up(request: web.Request) -> web.StreamResponse | None:
        site.files["/exp/f"] = await request.read()
        return await hang_up(request)

    # aiohttp repeats a PUT once by itself.
    site.cache_faults = [store_and_hang_up] * 2
    assert (await session.put(tmp_path / "f", "/exp/f")).already


# ---- get


def half(data: bytes) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data)), "ETag": f'"{adler(data)}"'})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        # Not an abort: the half arrives, and then nothing more.
        assert request.transport is not None
        request.transport.close()
        raise ConnectionResetError

    return fault


async def test_a_get_that_breaks_goes_on_where_it_was(site: FakeSite, session: Session, tmp_path: Path) -> None:
    site.files["/exp/f"] = data = os.urandom(3_000_000)
    site.cache_faults = [half(data)]
    await session.get("/exp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data
    whole, rest = [seen[4] for seen in site.seen if seen[0] == "cache"]
    assert whole is None
    assert rest is not None
    # How much of the half has been taken from the socket when the break is seen is the machine's matter.
    assert 0 < int(rest.removeprefix("bytes=").removesuffix("-")) <= 1_500_000


async def test_a_later_get_takes_up_what_an_earlier_one_left(site: FakeSite, session: Session, tmp_path: Path) -> None:
    site.files["/exp/f"] = data = os.urandom(1_000_000)
    part = tmp_path / f"f.{site.entry('/exp/f').file_id}.part"
    part.write_bytes(data[:400_000])
    await session.get("/exp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data
    assert [seen[4] for seen in site.seen if seen[0] == "cache"] == ["bytes=400000-"]
    assert not part.exists()


async def test_two_gets_to_one_name_at_once_both_end_with_the_whole_file(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = data = os.urandom(3_000_000)
    site.cache_faults = [half(data), half(data)]
    await asyncio.gather(*(session.get("/exp/f", tmp_path / "f") for _ in range(3)))
    assert (tmp_path / "f").read_bytes() == data
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


async def test_a_get_that_fails_before_its_first_byte_leaves_nothing(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = b"right"
    site.cache_faults = [lambda _: _answer(web.Response(status=403))]
    with pytest.raises(CapstanError):
        await session.get("/exp/f", tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


async def test_a_part_that_is_not_the_beginning_of_the_file_is_thrown_away(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = data = os.urandom(1_000_000)
    (tmp_path / f"f.{site.entry('/exp/f').file_id}.part").write_bytes(b"x" * 400_000)
    await session.get("/exp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data


async def test_bytes_that_are_not_the_files_are_never_given_its_name(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = b"right"
    (tmp_path / "f").write_bytes(b"old")
    site.cache_faults = [lambda _: _answer(web.Response(body=b"wrong"))]
    with pytest.raises(Damaged):
        await session.get("/exp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def _answer(response: web.StreamResponse) -> Awaitable[web.StreamResponse | None]:
    async def give() -> web.StreamResponse:
        return response

    return give()


async def test_a_file_on_tape_is_staged_awaited_and_released(site: FakeSite, session: Session, tmp_path: Path) -> None:
    site.files["/exp/f"] = b"data"
    site.on_tape.add("/exp/f")
    await session.get("/exp/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"data"
    assert site.staged == {"1": ["/exp/f"]}
    assert site.released == ["1"]


async def test_a_file_that_went_to_tape_after_it_was_listed_is_staged_too(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = b"data"
    entry = await session.stat("/exp/f")
    site.on_tape.add("/exp/f")
    await session.get_entry(entry, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"data"


async def test_a_wait_for_tape_ends_in_time_says_why_and_leaves_no_request(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    site.files["/exp/f"] = b"data"
    site.on_tape.add("/exp/f")
    site.tape_answers = False
    seen: list[str] = []
    with pytest.raises(TimedOut, match="no drive is free"):
        await session.get("/exp/f", tmp_path / "f", timeout_seconds=0.1, on_waiting=seen.append)
    assert "no drive is free" in seen
    assert site.deleted == ["1"]


async def test_a_file_that_cannot_be_staged_says_why(site: FakeSite, session: Session, tmp_path: Path) -> None:
    site.files["/exp/f"] = b"data"
    site.on_tape.add("/exp/f")
    site.stage_errors["/exp/f"] = "no readable copy is left"
    with pytest.raises(StageFailed, match="no readable copy is left"):
        await session.get("/exp/f", tmp_path / "f")


async def test_many_files_have_one_request_and_each_its_own_outcome(
    site: FakeSite, session: Session, tmp_path: Path
) -> None:
    for number in range(6):
        site.files[f"/exp/{number}"] = str(number).encode()
    site.on_tape = {"/exp/1", "/exp/2", "/exp/3"}
    site.stage_errors["/exp/3"] = "gone"
    wanted = [Wanted(entry=site.entry(path), local=tmp_path / path[-1]) for path in sorted(site.files)]
    del site.files["/exp/5"]
    outcomes = await Fetch(session=session, parallel=2).run(wanted)
    failed = {one.wanted.entry.path: type(one.error) for one in outcomes if one.error is not None}
    assert failed == {"/exp/3": StageFailed, "/exp/5": NotFound}
    assert len(outcomes) == 6
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0", "1", "2", "4"]
    assert list(site.staged.values()) == [["/exp/1", "/exp/2", "/exp/3"]]


async def test_a_pattern_names_files_and_never_directories(site: FakeSite, session: Session) -> None:
    site.files |= {"/exp/a.dat": b"", "/exp/b.dat": b"", "/exp/c.txt": b"", "/exp/x[1].dat": b""}
    assert [entry.path for entry in await session.expand("/exp/?.dat")] == ["/exp/a.dat", "/exp/b.dat"]
    assert [entry.path for entry in await session.expand("/exp/x[1].dat")] == ["/exp/x[1].dat"]
    with pytest.raises(NotFound):
        await session.expand("/exp/*.none")

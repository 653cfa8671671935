"""Two libraries, one catalog: what goes on when one is away, and an operator's way out of each stuck state.

One site for the module: each test leaves libraries, drives and volumes as it found them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from capstan.demo.site import Site, free_port
from tests.scenario.small_site import change, query, small_site, soon

pytestmark = pytest.mark.timeout(120)

#: "within a second", and as much again for a busy machine
EFFECT_SECONDS = 2.0
WORK_SECONDS = 30.0
CONFIGURATION = """
[tapeserver]
failover_after_seconds = 1
housekeeping_seconds = 0.3
collecting_age_seconds = 1.5
bundle_seconds = 0
flush_idle_seconds = 0
cooldown_seconds = 0.3
dismount_delay_seconds = 0.2
planning_interval_seconds = 0.3
backoff_seconds = 0.5
commit_files_max = 2

[cacheserver]
capacity_bytes = 4_000_000_000
free_bytes_min = 100_000_000

[[libraries]]
name = "east"
vid_prefix = "E"
cartridges = 3

[[libraries]]
name = "west"
vid_prefix = "W"
cartridges = 3
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with small_site(CONFIGURATION) as made:
        yield made


@contextmanager
def away(site: Site, what: str, *names: str, reason: str = "it is serviced") -> Iterator[None]:
    """Down (or disabled) while the block runs."""
    noun = {"drives": "drive", "libraries": "library", "volumes": "volume"}[what]
    off, on = ("disable", "enable") if noun == "volume" else ("down", "up")
    with ExitStack() as stack:
        for name in names:
            site.run(["capstan", noun, off, name, "--reason", reason])
            stack.callback(site.run, ["capstan", noun, on, name, "--reason", f"after: {reason}"])
        yield


def audited(site: Site, action: str, name: str) -> list[tuple[str, str]]:
    """(who, reason), the newest first."""
    rows = query(
        site,
        "select who, action, reason from audit where object like '%' || cast(:name as text) order by id desc",
        name=name,
    )
    return [(who, reason) for who, did, reason in rows if action in did]


def put(site: Site, directory: Path, path: str, *, size: int = 10_000, copies: str = "one") -> bytes:
    (directory / "sent").write_bytes(content := os.urandom(size))
    site.run(["tput", "--class", copies, str(directory / "sent"), path])
    return content


def put_safe(site: Site, directory: Path, path: str, **options: Any) -> bytes:
    content = put(site, directory, path, **options)
    soon(lambda: safe(site, path), seconds=WORK_SECONDS, what=f"{path} is safe")
    return content


def safe(site: Site, path: str) -> bool:
    (file,) = site.call("POST", "/api/capstan/v1/archive-wait", {"paths": [path]})["files"]
    return bool(file["safe"])


def libraries_of(site: Site, path: str) -> set[str]:
    (file,) = site.call("POST", "/api/capstan/v1/whereis", {"paths": [path]})["files"]
    return {copy["library"] for copy in file.get("copies", [])}


def drop(site: Site, path: str) -> None:
    def gone() -> bool:
        site.call("POST", "/api/capstan/v1/cache/drop", {"paths": [path]})
        label = "select count(*) from replica r join file f on f.id = r.file where f.stored_path like :path || '%'"
        return query(site, label, path=path) == [(0,)]

    soon(gone, seconds=WORK_SECONDS, what=f"{path} leaves the cache")
    # A mount that has just written, and is still there, would serve the recalls too.
    soon(lambda: query(site, "select count(*) from mount") == [(0,)], seconds=WORK_SECONDS, what="the drives are empty")


def stage(site: Site, *paths: str) -> str:
    """The request's id. Its pins soon end, so that the next test can drop the files."""
    files = [{"path": path, "diskLifetime": "PT1S"} for path in paths]
    return str(site.call("POST", "/api/v1/stage", {"files": files})["requestId"])


def keep_house(site: Site, path: str) -> None:
    """Wait for a whole round of the tape server's housekeeping: it takes pins away that have run out."""
    pins = "select count(*) from pin where owner = 'round'"
    for _ in range(2):
        change(
            site,
            "insert into pin (file, owner, expires_at)"
            " select id, 'round', capstan_now() from file where stored_path = :path",
            path=path,
        )
        soon(lambda: query(site, pins) == [(0,)], seconds=WORK_SECONDS, what="pins that have run out are taken away")


def states(site: Site, request: str) -> list[str]:
    return [file["state"] for file in site.call("GET", f"/api/v1/stage/{request}")["files"]]


def completed(site: Site, request: str) -> Callable[[], bool]:
    return lambda: set(states(site, request)) == {"COMPLETED"}


def test_one_copy_archives_move_to_the_other_library_and_do_not_move_back(site: Site, tmp_path: Path) -> None:
    def pools() -> set[str]:
        return {pool for (pool,) in query(site, "select pool from archive")}

    # Without drives nothing is written, so that what is queued can be looked at.
    with away(site, "drives", "east-0", "east-1", "west-0", "west-1"):
        put(site, tmp_path, "/move/f")
        assert pools() == {"east"}
        with away(site, "libraries", "east"):
            soon(lambda: pools() == {"west"}, seconds=10 + EFFECT_SECONDS, what="the archive moves")
        # East is up again for longer than `failover_after_seconds`: now it could move back.
        up = "select since < capstan_now() - interval '1 s' from library where name = 'east' and state = 'up'"
        soon(lambda: query(site, up) == [(True,)], seconds=WORK_SECONDS, what="east is up")
        keep_house(site, "/move/f")
        assert pools() == {"west"}
    soon(lambda: safe(site, "/move/f"), seconds=WORK_SECONDS)
    assert libraries_of(site, "/move/f") == {"west"}
    put_safe(site, tmp_path, "/move/later")
    assert libraries_of(site, "/move/later") == {"east"}


def test_with_two_copies_reads_come_from_whichever_library_is_up(site: Site, tmp_path: Path) -> None:
    content = put_safe(site, tmp_path, "/both/f", copies="two")
    assert libraries_of(site, "/both/f") == {"east", "west"}
    for gone, there in (("east", "west"), ("west", "east")):
        drop(site, "/both/f")
        soon(lambda: not site.call("GET", "/api/capstan/v1/queue")["mounts"], seconds=WORK_SECONDS)
        before = query(site, "select coalesce(max(epoch), 0) from mount_history")[0][0]
        with away(site, "libraries", gone):
            site.run(["tget", "/both/f", str(tmp_path / "got")])
            assert (tmp_path / "got").read_bytes() == content
            assert "degraded" in site.run(["tls", "-l", "/both"]).stdout
        soon(lambda: not site.call("GET", "/api/capstan/v1/queue")["mounts"], seconds=WORK_SECONDS)
        recalls = "select distinct library from mount_history where epoch > :epoch and purpose = 'recall'"
        assert query(site, recalls, epoch=before) == [(there,)]


def test_who_waits_for_a_library_that_is_down_is_told_so_and_why(site: Site, tmp_path: Path) -> None:
    content = put_safe(site, tmp_path, "/why/f")
    (library,) = libraries_of(site, "/why/f")
    drop(site, "/why/f")
    with away(site, "libraries", library, reason="the robot is greased"):
        assert audited(site, "down", library)[0] == ("operator", "the robot is greased")
        request = stage(site, "/why/f")

        def said() -> bool:
            shown = [site.run(["capstan", "explain", what]).stdout for what in ("/why/f", f"request:{request}")]
            rows = site.call("GET", "/api/capstan/v1/queue")["recalls"]
            shown.append(" ".join(row["why"] for row in rows))
            return all("down" in text and "the robot is greased" in text for text in shown)

        soon(said, seconds=WORK_SECONDS, what="explain and the candidates name the library's reason")
        assert states(site, request) == ["STARTED"]
    soon(completed(site, request), seconds=WORK_SECONDS)
    site.run(["tget", "/why/f", str(tmp_path / "got")])
    assert (tmp_path / "got").read_bytes() == content


@pytest.fixture(scope="module")
def many(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files in two copies, enough for a read to last a while."""
    directory = tmp_path_factory.mktemp("many")
    for number in range(24):
        (directory / f"f{number}").write_bytes(os.urandom(8_000_000))
    site.run(["tput", "-r", "--wait", "--class", "two", str(directory), "/many"])
    return [f"/many/f{number}" for number in range(24)]


def reading(site: Site) -> dict[str, Any] | None:
    """A mount that reads just now."""
    mounts = site.call("GET", "/api/capstan/v1/queue")["mounts"]
    return next((one for one in mounts if one["purpose"] == "recall" and one["state"] == "running"), None)


def test_a_drive_put_down_while_it_reads_lets_go_at_once_and_the_files_come_all_the_same(
    site: Site, many: list[str]
) -> None:
    drop(site, "/many")
    request = stage(site, *many)
    mount = soon(lambda: reading(site), seconds=WORK_SECONDS, what="a mount reads")
    assert mount is not None
    with away(site, "drives", mount["drive"], reason="it smells"):
        left = "select count(*) from mount where epoch = :epoch"
        soon(
            lambda: query(site, left, epoch=mount["epoch"]) == [(0,)], seconds=EFFECT_SECONDS, what="the drive is free"
        )
        assert audited(site, "down", mount["drive"])[0] == ("operator", "it smells")
        soon(completed(site, request), seconds=WORK_SECONDS)


def test_a_volume_disabled_while_it_is_read_gives_way_to_the_other_copy(site: Site, many: list[str]) -> None:
    drop(site, "/many")
    request = stage(site, *many)
    mount = soon(lambda: reading(site), seconds=WORK_SECONDS, what="a mount reads")
    assert mount is not None
    with away(site, "volumes", mount["volume"], reason="it squeaks"):
        left = "select count(*) from mount where epoch = :epoch"
        soon(lambda: query(site, left, epoch=mount["epoch"]) == [(0,)], seconds=EFFECT_SECONDS, what="it is let go")
        assert audited(site, "disabled", mount["volume"])[0] == ("operator", "it squeaks")
        soon(completed(site, request), seconds=WORK_SECONDS)
        again = "select count(*) from mount_history where volume = :volume and epoch > :epoch"
        assert query(site, again, volume=mount["volume"], epoch=mount["epoch"]) == [(0,)]
        assert "it squeaks" in site.run(["capstan", "explain", mount["volume"]]).stdout


def test_archives_that_wait_for_an_operator_go_on_when_told_so(site: Site, tmp_path: Path) -> None:
    with away(site, "drives", "east-0", "east-1", "west-0", "west-1"):
        put(site, tmp_path, "/held/f")
        change(site, "update archive set state = 'held', attempts = 4, last_error = 'the medium squeaked'")
    assert "the medium squeaked" in site.run(["capstan", "explain", "/held/f"]).stdout
    assert not safe(site, "/held/f")
    site.run(["capstan", "queue", "retry", "--reason", "cleaned"])
    held = "select count(*) from archive where state = 'held'"
    soon(lambda: query(site, held) == [(0,)], seconds=EFFECT_SECONDS, what="nothing is held")
    assert query(site, "select who, reason from audit where action = 'queue retry' order by id desc limit 1") == [
        ("operator", "cleaned")
    ]
    soon(lambda: safe(site, "/held/f"), seconds=WORK_SECONDS)


def test_a_stuck_request_is_cancelled_by_an_operator_and_nothing_waits_for_it_any_more(
    site: Site, tmp_path: Path
) -> None:
    put_safe(site, tmp_path, "/cancel/f")
    (library,) = libraries_of(site, "/cancel/f")
    drop(site, "/cancel/f")
    with away(site, "libraries", library):
        request = stage(site, "/cancel/f")
        soon(lambda: states(site, request) == ["STARTED"], seconds=WORK_SECONDS)
        site.run(["capstan", "request", "cancel", request, "--reason", "its owner is on holiday"])
        soon(lambda: states(site, request) == ["CANCELLED"], seconds=EFFECT_SECONDS)
        soon(lambda: query(site, "select count(*) from recall") == [(0,)], seconds=EFFECT_SECONDS)
        assert audited(site, "request cancel", f"request {request}") == [("operator", "its owner is on holiday")]


def test_a_client_goes_on_with_the_next_door_when_the_first_is_dead(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content := os.urandom(200_000))
    doors = {"CAPSTAN_URL": f"http://127.0.0.1:{free_port()},{site.url}"}
    site.run(["tput", str(tmp_path / "f"), "/doors/f"], env=doors)
    assert "f" in site.run(["tls", "/doors"], env=doors).stdout
    site.run(["tget", "/doors/f", str(tmp_path / "got")], env=doors)
    assert (tmp_path / "got").read_bytes() == content
    job = site.run(["tjob", "submit", "--input", "/doors/f", "--wait", "--", "echo", "here"], env=doors)
    assert job.stdout == "here\n"

"""Bad input against a whole site, by the commands and by plain HTTP: a clear answer and code, nothing left.

What the door refuses by itself is tested at the door; here are the ways that lead through several processes. One site
for the module, with a small cache.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import shutil
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capstan.demo.site import Answer, Site, free_port
from catalog import identity
from catalog.database import Database
from catalog.signing import GetClaims, PutClaims, sign, verify
from tests.scenario.small_site import query, small_site, soon
from tests.scenario.soak_rest import database_url

pytestmark = pytest.mark.timeout(120)

CACHE_BYTES = 200_000_000
CONFIGURATION = f"""
[tapeserver]
collecting_age_seconds = 0.5
bundle_seconds = 0
flush_idle_seconds = 0
dismount_delay_seconds = 0.2
planning_interval_seconds = 0.3

[cacheserver]
capacity_bytes = {CACHE_BYTES}
free_bytes_min = 100_000_000

[[libraries]]
name = "east"
vid_prefix = "E"
cartridges = 1
drives = 1
capacity = "1 GB"

[[libraries]]
name = "west"
vid_prefix = "W"
cartridges = 1
drives = 1
capacity = "1 GB"
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with small_site(CONFIGURATION) as made:
        made.run(["tmkdir", "/bad"])
        yield made


@pytest.fixture(autouse=True)
def _nothing_left_behind(site: Site) -> Iterator[None]:
    """Whatever a test is refused: no space stays promised, no bytes stay on the disk, nothing waits."""
    yield
    cache = site.data / "cache"

    def clean() -> bool:
        left = query(
            site,
            "select (select count(*) from reservation where kind = 'recall' or expires_at <= capstan_now()),"
            " (select count(*) from stage_item where state in ('submitted', 'started')),"
            " (select count(*) from jobs.job where state not in ('done', 'failed', 'cancelled')),"
            " (select count(*) from replica where state <> 'on_disk')",
        )
        known = {str(id) for (id,) in query(site, "select id from replica")}
        lying = {path.name for path in (cache / "replicas").rglob("*") if path.is_file()}
        beside = [path for name in ("incoming", "quarantine") for path in (cache / name).iterdir()]
        return left == [(0, 0, 0, 0)] and lying == known and not beside

    soon(clean, seconds=20, what="nothing is left behind")


def ask(
    site: Site, method: str, url: str, *, token: str | None = None, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One request, not followed: status, headers, and the document of the answer (else its bytes)."""
    parts = urllib.parse.urlsplit(url if url.startswith("http") else site.url + url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token != "":
        sent["Authorization"] = f"Bearer {token or site.token}"
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    document = json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content
    return answer.status, dict(answer.headers), document


def code_of(answer: tuple[int, dict[str, str], Any]) -> tuple[int, str]:
    status, headers, document = answer
    assert headers["Content-Type"].startswith("application/problem+json"), answer
    return status, document["code"]


def exists(site: Site, path: str) -> bool:
    return site.run(["tls", path], check=False).returncode == 0


def redirected(site: Site, path: str, size: int, **headers: str) -> str:
    """The signed URL for a PUT of so many bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.putrequest("PUT", path)
    sent = {"Authorization": f"Bearer {site.token}", "Capstan-Redirect": "1", "Content-Length": str(size), **headers}
    for name, value in sent.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 307, answer.read()
    url = answer.headers["Location"]
    connection.close()
    return url


async def resigned(site: Site, url: str, **changed: Any) -> str:
    """The same URL with other claims, and a right signature."""
    async with Database(database_url(site.data), connections_max=1) as database, database.transaction() as connection:
        keys = await identity.signing_keys(connection)
    base, _, signature = url.partition("?sig=")
    claims = verify(urllib.parse.unquote(signature), keys, 0.0)
    assert isinstance(claims, PutClaims | GetClaims)
    fields = {name: getattr(claims, name) for name in claims.__struct_fields__}
    return f"{base}?sig={sign(type(claims)(**fields | changed), keys)}"


def a_token(site: Site, owner: str, *grants: tuple[str, str]) -> str:
    body = {"label": owner, "owner": owner, "groups": [owner], "grants": grants, "lifetime_seconds": 600}
    return str(site.call("POST", "/api/capstan/v1/tokens", body)["token"])


def a_file(directory: Path, size: int = 1000) -> Path:
    (directory / "f").write_bytes(os.urandom(size))
    return directory / "f"


# ------------------------------------------------------------------ signed URLs


async def test_an_expired_url_stores_nothing_and_reads_nothing(site: Site) -> None:
    url = redirected(site, "/bad/expired", 5)
    assert code_of(ask(site, "PUT", await resigned(site, url, expires_at=1.0), token="", body=b"hello")) == (
        403, "bad_signature",
    )  # fmt: skip
    assert not exists(site, "/bad/expired")
    assert ask(site, "PUT", url, token="", body=b"hello")[0] == 201
    _, headers, _ = ask(site, "GET", "/bad/expired", Capstan_Redirect="1")
    old = await resigned(site, headers["Location"], expires_at=1.0)
    assert code_of(ask(site, "GET", old, token="")) == (403, "bad_signature")


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_forged_url_stores_nothing(site: Site, place: int) -> None:
    url = redirected(site, "/bad/forged", 5)
    base, _, signature = url.partition("?sig=")
    letter = "A" if signature[place] != "A" else "B"
    forged = signature[:place] + letter + (signature[place + 1 :] if place != -1 else "")
    assert code_of(ask(site, "PUT", f"{base}?sig={forged}", token="", body=b"hello")) == (403, "bad_signature")
    assert not exists(site, "/bad/forged")
    assert ask(site, "PUT", url, token="", body=b"hello")[0] == 201
    site.run(["trm", "/bad/forged"])


def test_a_replayed_url_gives_the_first_result_and_changes_nothing(site: Site) -> None:
    url = redirected(site, "/bad/replayed", 5)
    first = ask(site, "PUT", url, token="", body=b"hello")
    again = ask(site, "PUT", url, token="", body=b"olleh")
    assert (first[0], again[2]) == (201, first[2])
    assert ask(site, "GET", "/bad/replayed")[2] == b"hello"
    site.run(["trm", "/bad/replayed"])
    ask(site, "PUT", url, token="", body=b"hello")  # still that result: the file does not come back by it
    assert not exists(site, "/bad/replayed")


def test_a_url_for_writing_does_not_read(site: Site) -> None:
    url = redirected(site, "/bad/crossed", 5)
    assert code_of(ask(site, "GET", url, token="")) == (403, "bad_signature")
    assert ask(site, "PUT", url, token="", body=b"hello")[0] == 201


# ------------------------------------------------------------------ puts


@pytest.mark.parametrize("follow", [False, True])
def test_a_body_shorter_than_its_content_length_stores_nothing(site: Site, follow: bool) -> None:
    url = redirected(site, "/bad/short", 1000) if follow else site.url + "/bad/short"
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + bytes(500))
    soon(
        lambda: query(site, "select count(*) from reservation where path = '/bad/short'") == [(0,)],
        seconds=10,
        what="the space is given back",
    )
    assert not exists(site, "/bad/short")


def test_a_wrong_digest_stores_nothing(site: Site) -> None:
    answer = ask(site, "PUT", "/bad/digest", body=b"hello", Digest="adler32=00000001")
    assert code_of(answer) == (400, "digest_mismatch")
    assert not exists(site, "/bad/digest")


@pytest.mark.parametrize(
    ("size", "headers", "wanted"),
    [
        (2_000_000_000, {}, (413, "larger_than_any_volume")),
        (CACHE_BYTES + 1, {}, (507, "no_space")),
        (5, {"Capstan-Storage-Class": "nine"}, (400, "unknown_storage_class")),
        (5, {"Digest": "adler32=xyz"}, (400, "bad_digest")),
    ],
)
def test_what_cannot_be_stored_is_refused_before_its_body(
    site: Site, size: int, headers: dict[str, str], wanted: tuple[int, str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.putrequest("PUT", "/bad/refused")
    sent = {"Authorization": f"Bearer {site.token}", "Content-Length": str(size), "Expect": "100-continue", **headers}
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == wanted
    connection.close()
    assert not exists(site, "/bad/refused")


def test_tput_says_why_it_was_refused(site: Site, tmp_path: Path) -> None:
    file = str(a_file(tmp_path))
    site.run(["tput", file, "/bad/there"])
    for target, options, code, wanted in (
        ("/bad/none", ["--class", "nine"], 1, "unknown_storage_class"),
        ("/bad/there/through", [], 1, "not_a_directory"),
        ("/bad/" + "x" * 300, [], 1, "bad_path"),
        ("/bad/a\x01b", [], 1, "bad_path"),
    ):
        done = site.run(["tput", "--json", *options, file, target], check=False)
        assert (done.returncode, wanted in done.stdout) == (code, True), (target, done.stdout, done.stderr)
    a_file(tmp_path)
    refused = site.run(["tput", "--json", file, "/bad/there"], check=False)
    assert (refused.returncode, "exists" in refused.stdout) == (1, True)
    assert site.run(["tls", "/bad/none"], check=False).returncode == 4


def test_of_two_tputs_of_one_name_at_once_one_wins_whole(site: Site, tmp_path: Path) -> None:
    contents = [os.urandom(3_000_000) for _ in range(4)]
    for number, content in enumerate(contents):
        (tmp_path / f"f{number}").write_bytes(content)

    def put(number: int) -> int:
        return site.run(["tput", str(tmp_path / f"f{number}"), "/bad/raced"], check=False).returncode

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(put, range(4)))
    assert sorted(codes) == [0, 1, 1, 1]
    site.run(["tget", "/bad/raced", str(tmp_path / "got")])
    assert (tmp_path / "got").read_bytes() == contents[codes.index(0)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: apt-get install curl")
def test_a_refused_2_mb_put_by_plain_curl_is_an_error_and_stores_nothing(site: Site, tmp_path: Path) -> None:
    file = a_file(tmp_path, 2_000_000)
    header = ["-H", f"Authorization: Bearer {site.token}"]
    for target, wanted in (("/bad/missing/f", "409"), ("/bad/a%2Fb", "400"), ("/bad/%ff", "400")):
        asked = ["curl", "-sS", "-w", "%{http_code}", "-o", os.devnull, *header, "-T", str(file), site.url + target]
        assert site.run(asked).stdout == wanted
        failing = ["curl", "-sS", "-fT", str(file), *header, site.url + target]
        assert site.run(failing, check=False).returncode == 22
    stored = site.run(["curl", "-sS", "-fT", str(file), *header, site.url + "/bad/by-curl"])
    assert json.loads(stored.stdout)["size"] == 2_000_000


# ------------------------------------------------------------------ rights


def test_a_token_without_the_right_gets_no_further_than_its_grants(site: Site, tmp_path: Path) -> None:
    file = str(a_file(tmp_path))
    site.run(["tput", "--force", file, "/bad/readable"])
    reader = {"CAPSTAN_TOKEN": a_token(site, "reader", ("read", "/bad"), ("poll", "/bad"))}
    site.run(["tget", "/bad/readable", str(tmp_path / "got")], env=reader)
    for argv in (
        ["tput", file, "/bad/mine"],
        ["trm", "/bad/readable"],
        ["tmv", "/bad/readable", "/bad/mine"],
        ["tmkdir", "/bad/dir"],
        ["capstan", "drive", "down", "east-0", "--reason", "mischief"],
        ["capstan", "cache", "drop", "/bad"],
    ):
        done = site.run(argv, check=False, env=reader)
        assert done.returncode == 5, (argv, done.stdout, done.stderr)
    assert exists(site, "/bad/readable")
    assert not exists(site, "/bad/mine")
    assert site.call("GET", "/api/capstan/v1/drives/east-0")["state"] == "up"
    wrong = site.run(["tls", "/bad"], check=False, env={"CAPSTAN_TOKEN": "made-up"})
    assert wrong.returncode == 5


def test_nobody_cancels_a_request_of_somebody_else(site: Site, tmp_path: Path) -> None:
    site.run(["tput", "--wait", "--force", str(a_file(tmp_path)), "/bad/theirs"])
    site.run(["capstan", "cache", "drop", "/bad/theirs"])
    site.run(["capstan", "library", "down", "east", "--reason", "it is serviced"])
    try:
        body = {"files": [{"path": "/bad/theirs", "diskLifetime": "PT1S"}]}
        request = site.call("POST", "/api/v1/stage", body)["requestId"]
        other = a_token(site, "other", ("read", "/"), ("stage", "/"), ("poll", "/"))
        asked = json.dumps({"paths": ["/bad/theirs"]}).encode()
        for method, url, sent in (
            ("POST", f"/api/v1/stage/{request}/cancel", asked),
            ("DELETE", f"/api/v1/stage/{request}", None),
            ("POST", f"/api/capstan/v1/requests/{request}/cancel", b'{"reason": "mischief"}'),
        ):
            assert code_of(ask(site, method, url, token=other, body=sent)) == (403, "denied"), url
        assert site.call("GET", f"/api/v1/stage/{request}")["files"][0]["state"] in ("SUBMITTED", "STARTED")
    finally:
        site.run(["capstan", "library", "up", "east", "--reason", "serviced"])


# ------------------------------------------------------------------ staging, jobs, configuration


def test_of_a_stage_request_with_bad_files_the_good_ones_come(site: Site, tmp_path: Path) -> None:
    site.run(["tput", "--force", str(a_file(tmp_path)), "/bad/good"])
    body = {"files": [{"path": path, "diskLifetime": "PT1S"} for path in ("/bad/good", "/bad/missing", "/bad")]}
    request = site.call("POST", "/api/v1/stage", body)["requestId"]

    def ended() -> bool:
        files = site.call("GET", f"/api/v1/stage/{request}")["files"]
        return {file["path"]: (file["state"], bool(file.get("error"))) for file in files} == {
            "/bad/good": ("COMPLETED", False),
            "/bad/missing": ("FAILED", True),
            "/bad": ("FAILED", True),
        }

    soon(ended, seconds=20, what="each file has its own answer")
    codes = query(site, "select path, error_code from stage_item where request = :r order by path", r=int(request))
    assert codes == [("/bad", "is_a_directory"), ("/bad/good", None), ("/bad/missing", "not_found")]
    assert site.run(["tstage", "--wait", "/bad/good", "/bad/missing"], check=False).returncode == 3


@pytest.mark.parametrize("given", ["/bad/no-such-file", "/bad/none-*.dat"])
def test_a_job_with_a_missing_input_is_refused_and_not_kept(site: Site, given: str) -> None:
    before = query(site, "select count(*) from jobs.job")
    done = site.run(["tjob", "submit", "--json", "--input", given, "--", "true"], check=False)
    assert (done.returncode, "no_such_input" in done.stdout) == (4, True), (done.stdout, done.stderr)
    assert query(site, "select count(*) from jobs.job") == before


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"argv": "true"}',
        b'{"argv": ["true"], "colour": "red"}',
        b'{"argv": ["true"], "priority": "high"}',
    ],
)
def test_a_job_that_is_not_what_is_wanted_is_bad_json(site: Site, body: bytes) -> None:
    before = query(site, "select count(*) from jobs.job")
    assert code_of(ask(site, "POST", "/api/jobs/v1/jobs", body=body)) == (400, "bad_json")
    assert query(site, "select count(*) from jobs.job") == before


def test_only_the_recorded_token_submits_to_the_local_batch_system(site: Site) -> None:
    admin = a_token(site, "second", ("admin", "/"))
    done = site.run(["tjob", "submit", "--", "true"], check=False, env={"CAPSTAN_TOKEN": admin})
    assert done.returncode == 5


def test_more_paths_than_the_limit_are_refused(site: Site) -> None:
    with pytest.raises(Answer) as refused:
        site.call("POST", "/api/capstan/v1/whereis", {"paths": ["/bad"] * 10_001})
    assert (refused.value.status, refused.value.problem["code"]) == (413, "too_large")


def test_an_unknown_key_in_a_configuration_is_named_with_its_nearest_and_nothing_is_started(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "capstan.toml").write_text("[tapeserver]\ncolecting_age_seconds = 1\n")
    up = ["capstan", "up", "--data", str(tmp_path / "data"), "--port", str(free_port())]
    for argv in (
        ["capstan", "config", "check", str(tmp_path / "capstan.toml")],
        [*up, "--config", str(tmp_path / "capstan.toml")],
    ):
        done = site.run(argv, check=False)
        assert done.returncode in (1, 2), done
        assert "colecting_age_seconds" in done.stderr, done
        assert "'tapeserver.collecting_age_seconds'" in done.stderr or "'collecting_age_seconds'" in done.stderr, done
    assert not (tmp_path / "data" / "postgresql").exists()

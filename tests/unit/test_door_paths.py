"""Promises of the request path: taken from the bytes that were sent, decoded once, refused rather than repaired."""

from __future__ import annotations

import pytest

from catalog.errors import BadDigest, BadPath, BadRequest, NotADirectory, Unauthenticated
from catalog.model import FileRecord
from tapeserver.door import digests
from tapeserver.door.authentication import secret_of
from tapeserver.door.paths import destination_path, href, request_path
from tapeserver.door.webdav import parse_propfind

FILE = FileRecord(
    file_id=1, path="/f", size=1, adler32="03da0195", mtime_ns=0, mode=0o644, owner="a", group="g", storage_class="one",
    digests={"md5": "1B2M2Y8AsgTpgAmY7PhCfg=="},
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "components"),
    [
        ("/", ()),
        ("/a/b", ("a", "b")),
        ("//a///b?x=/c", ("a", "b")),
        ("/a%20b/%C3%A4", ("a b", "ä")),
        ("/a%3Fb/c%23d/100%25", ("a?b", "c#d", "100%")),
        ("/%2541", ("%41",)),
        ("http://door:1/a/b", ("a", "b")),
        ("/a+b", ("a+b",)),
    ],
)
def test_a_target_is_decoded_once(target: str, components: tuple[str, ...]) -> None:
    assert request_path(target).components == components


@pytest.mark.parametrize(
    "target",
    [
        "/a/../b",
        "/a/%2e%2e/b",
        "/..",
        "/./a",
        "/a/%2E",
        "/a%2Fb",
        "/a%2fb",
        "/a%00b",
        "/a%0Ab",
        "/a%7F",
        "/a%C2%85b",
        "/a%ff",
        "/a%ed%a0%80",
        "/a%",
        "/a%zz",
        "/" + "x" * 256,
        "/" + "%C3%A4" * 128,
        "/a" * 2100,
        "/" + "%41" * 9000,
        "/api/x",
        "/%61pi",
        "/ui",
        "/.well-known",
        "http://door:1/a/../b",
        "*",
    ],
)
def test_what_is_no_name_is_refused(target: str) -> None:
    with pytest.raises(BadPath):
        request_path(target)


def test_a_slash_at_the_end_means_a_directory_only() -> None:
    request_path("/a").refuse_file()
    request_path("/").refuse_file()
    with pytest.raises(NotADirectory):
        request_path("/a/").refuse_file()


def test_a_destination_is_on_this_server() -> None:
    assert destination_path("http://door:1/a%20b", "door:1").path == "/a b"
    assert destination_path("/a", "door:1").path == "/a"
    for header in (None, "", "http://elsewhere/a"):
        with pytest.raises(BadRequest):
            destination_path(header, "door:1")
    with pytest.raises(BadPath):
        destination_path("/a%2Fb", "door:1")


def test_an_href_reads_back_as_the_path() -> None:
    path = "/a b/ä?#%/x"
    assert request_path(href(path, is_directory=False)).path == path
    assert href("/a", is_directory=True) == "/a/"
    assert href("/", is_directory=True) == "/"


def test_promised_digests_are_read_and_unknown_ones_ignored() -> None:
    headers = {"Digest": "ADLER32=3da0195, crc32c=xyz, md5=1B2M2Y8AsgTpgAmY7PhCfg==", "Repr-Digest": "unixsum=:x:"}
    assert digests.promised(headers) == {"adler32": "03da0195", "md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}


@pytest.mark.parametrize(
    "headers",
    [
        {"Digest": "adler32=xyz"},
        {"Digest": "md5=short"},
        {"Repr-Digest": "sha-256=:AAAA:"},
        {"Digest": "adler32=1,adler32=2"},
        {"Digest": "adler32=" + "0" * 5000},
    ],
)
def test_a_digest_that_is_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadDigest):
        digests.promised(headers)


@pytest.mark.parametrize(
    ("want", "answer"),
    [
        (None, "adler32=03da0195,md5=1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("adler32", "adler32=03da0195"),
        ("ADLER32", "adler32=03da0195"),
        ("md5;q=0.5, adler32;q=0.9, crc32c;q=1", "adler32=03da0195,md5=1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("crc32c", "adler32=03da0195,md5=1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("md5;q=0,adler32;q=nonsense", "adler32=03da0195"),
    ],
)
def test_the_wanted_digests_are_given_and_unknown_ones_are_no_error(want: str | None, answer: str) -> None:
    assert digests.headers_of(FILE, want)["Digest"] == answer


def test_a_token_comes_as_bearer_or_as_the_password_of_basic() -> None:
    assert secret_of("Bearer abc") == "abc"
    assert secret_of("basic YW5uOmFiYw==") == "abc"
    for header in (None, "", "Bearer", "Bearer  ", "Digest x", "Basic ???", "Basic /////w==", "Bearer " + "x" * 5000):
        with pytest.raises(Unauthenticated):
            secret_of(header)


def test_a_propfind_body_is_read_strictly_and_without_entities() -> None:
    assert parse_propfind(b"").names is None
    assert parse_propfind(b'<propfind xmlns="DAV:"><allprop/></propfind>').names is None
    assert parse_propfind(b'<propfind xmlns="DAV:"><propname/></propfind>').names_only
    asked = b'<p:propfind xmlns:p="DAV:"><p:prop><p:displayname/><x xmlns="u:x"/></p:prop></p:propfind>'
    assert parse_propfind(asked).names == ("{DAV:}displayname", "{u:x}x")
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><propfind xmlns="DAV:"><prop>&a;</prop></propfind>'
    for body in (b"nonsense", b"<x/>", bomb):
        with pytest.raises(BadRequest):
            parse_propfind(body)

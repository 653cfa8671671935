"""Archives: what we build, others read; what we read is exactly what we would build."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeserver.format import pax
from tapeserver.format.objects import adler32, adler32_text
from tapeserver.format.pax import END_OF_ARCHIVE, BadMember, Member

MEMBER = Member(
    path="/exp/run7/a.dat", size=5, mtime_ns=1_700_000_000_123_000_000, mode=0o640, owner="alice", group="hall-b",
    storage_class="two", adler32="062c0215", file_id=123, generation=1, catalog_id="0F8C1D2E", copy_number=2,
    digests={"sha-256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},
)  # fmt: skip

text = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=40)
members = st.builds(
    Member,
    path=text.map(lambda path: "/" + path),
    size=st.integers(0, 2**60),
    mtime_ns=st.integers(-(10**18), 10**19),
    mode=st.integers(0, 0o7777),
    owner=text,
    group=text,
    storage_class=text,
    adler32=st.integers(0, 2**32 - 1).map(adler32_text),
    file_id=st.integers(0, 2**62),
    generation=st.integers(0, 10**6),
    catalog_id=text,
    copy_number=st.integers(1, 8),
    digests=st.dictionaries(st.from_regex(r"[a-z0-9-]{1,10}", fullmatch=True), text, max_size=3),
)


def archive(member: Member, data: bytes) -> bytes:
    return pax.build_member(member) + data + bytes(pax.padding(len(data))) + END_OF_ARCHIVE


@given(members)
def test_headers_round_trip_and_end_on_a_record(member):
    built = pax.build_member(member)
    assert len(built) % 512 == 0
    assert pax.header_bytes(built[:512]) == len(built)
    assert pax.parse_member(built) == member


@given(st.binary(max_size=2000))
def test_garbage_is_a_typed_error(noise):
    with pytest.raises(BadMember):
        pax.parse_member(noise)


@given(st.data())
def test_a_changed_byte_is_never_read_as_the_same_member(data):
    built = bytearray(pax.build_member(MEMBER))
    at = data.draw(st.integers(0, len(built) - 1))
    value = data.draw(st.integers(0, 255))
    if built[at] == value:
        return
    built[at] = value
    with contextlib.suppress(BadMember):
        assert pax.parse_member(bytes(built)) != MEMBER


@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "/exp/" + "x" * 95,
        "/exp/" + "long/" * 700 + "name",
        "/exp/Jülich/データ/файл 7.dat",
        "/exp/with = and % and spaces",
        "/" + "a" * 255,
    ],
)
def test_python_reads_path_owner_time_and_data_back(path):
    data = b"hello" * 1000
    member = replace(MEMBER, path=path, size=len(data), adler32=adler32_text(adler32(data)))
    with tarfile.open(fileobj=io.BytesIO(archive(member, data))) as tar:
        (info,) = tar.getmembers()
        assert info.name == path[1:]
        assert (info.uname, info.gname, info.mode, info.size) == ("alice", "hall-b", 0o640, 5000)
        assert float(info.mtime) == pytest.approx(1_700_000_000.123)
        assert info.pax_headers["CAPSTAN.adler32"] == member.adler32
        assert info.pax_headers["CAPSTAN.storage_class"] == "two"
        assert info.pax_headers["CAPSTAN.digest.sha-256"] == MEMBER.digests["sha-256"]
        extracted = tar.extractfile(info)
        assert extracted is not None
        assert extracted.read() == data


@pytest.mark.parametrize("path", ["/exp/Jülich/データ.dat", "/exp/" + "long/" * 40 + "name", "/exp/empty"])
def test_tar_extracts_the_file_under_its_path(tmp_path, path):
    data = b"" if path.endswith("empty") else b"some data\n" * 77
    member = replace(MEMBER, path=path, size=len(data))
    (tmp_path / "a.tar").write_bytes(archive(member, data))
    subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, check=True, capture_output=True)
    extracted = tmp_path / path[1:]
    assert extracted.read_bytes() == data
    assert int(extracted.stat().st_mtime_ns) == MEMBER.mtime_ns


def test_an_empty_file_is_a_member_without_data():
    with tarfile.open(fileobj=io.BytesIO(archive(replace(MEMBER, size=0, adler32="00000001"), b""))) as tar:
        assert [info.size for info in tar.getmembers()] == [0]


def test_a_size_beyond_8_gib_stands_in_the_extended_header():
    size = 8 * 1024**3 + 7
    headers = pax.build_member(replace(MEMBER, size=size))
    # The data need not be there to read the header.
    with tarfile.open(fileobj=io.BytesIO(headers)) as tar:
        info = tar.next()
    assert info is not None
    assert info.size == size


def test_several_members_follow_each_other_in_one_archive():
    bundle = b"".join(
        archive(replace(MEMBER, path=f"/b/{n}", size=n), b"x" * n)[: -len(END_OF_ARCHIVE)] for n in range(5)
    )
    with tarfile.open(fileobj=io.BytesIO(bundle + END_OF_ARCHIVE)) as tar:
        assert [(info.name, info.size) for info in tar.getmembers()] == [(f"b/{n}", n) for n in range(5)]


@pytest.mark.parametrize(
    "change",
    [{"path": "relative"}, {"path": "/"}, {"path": "/a\nb"}, {"adler32": "ABC"}, {"size": -1}, {"mode": 0o10000},
     {"owner": "a\0"}, {"digests": {"Not good": "x"}}, {"path": "/" + "x" * 70_000}],
)  # fmt: skip
def test_what_no_header_can_say_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        pax.build_member(replace(MEMBER, **change))


def test_adler32_runs_over_parts_as_over_the_whole():
    assert adler32(b"world", adler32(b"hello ")) == adler32(b"hello world")
    assert adler32_text(adler32(b"hello")) == "062c0215"

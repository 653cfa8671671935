"""Promises of the index format: what was built is read back, in pieces of any size; what is not an index is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeserver.format.indexes import LINE_BYTES_MAX, BadIndex, IndexDead, IndexEntry, IndexHead, build, parse

NAMES = st.text(max_size=20)


@st.composite
def indexes(draw: st.DrawFn) -> tuple[IndexHead, list[IndexEntry], list[IndexDead]]:
    places = sorted(draw(st.sets(st.tuples(st.integers(3, 9), st.integers(0, 2**40)), max_size=12)))
    entries = [
        IndexEntry(
            tape_file=tape_file,
            first_block=tape_file * 100,
            offset=offset,
            file_id=draw(st.integers(1, 2**63 - 1)),
            copy_number=draw(st.integers(1, 8)),
            size=draw(st.integers(0, 2**62)),
            adler32=f"{draw(st.integers(0, 2**32 - 1)):08x}",
            digests=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
            path="/" + draw(st.text(max_size=100)),
            mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
            mode=draw(st.integers(0, 0o7777)),
            owner=draw(NAMES),
            group=draw(NAMES),
            storage_class=draw(NAMES),
            collocation=draw(NAMES),
            node=draw(st.none() | st.integers(1, 2**63 - 1)),
            parent=draw(st.none() | st.integers(1, 2**63 - 1)),
            created=draw(st.integers(0, 2**53)),
            epoch=draw(st.integers(0, 2**62)),
        )
        for tape_file, offset in places
    ]
    dead = [
        IndexDead(tape_file=one, first_block=one * 100, blocks=draw(st.integers(0, 2**40)), why=draw(NAMES))
        for one in sorted(draw(st.sets(st.integers(3, 9), max_size=3)))
    ]
    return head(len(entries)), entries, dead


def head(entries: int) -> IndexHead:
    return IndexHead(
        volume="A00001",
        generation=2,
        catalog_id="c",
        pool="east",
        kind="session",
        first_tape_file=3,
        last_tape_file=9,
        previous_index=17,
        entries=entries,
        block_size=262144,
    )


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, size: int = 1000) -> tuple[IndexHead, list[IndexEntry | IndexDead]]:
    found, rest = parse(cut(data, size))
    return found, list(rest)


def written(lines: list[object]) -> bytes:
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@given(indexes(), st.integers(1, 5000))
@settings(deadline=None)
def test_an_index_is_read_back_as_it_was_built_in_pieces_of_any_size(
    index: tuple[IndexHead, list[IndexEntry], list[IndexDead]], size: int
) -> None:
    data = b"".join(build(*index))
    assert read(data, size) == (index[0], [*index[1], *index[2]])
    # Anybody's gzip reads it, a line for each.
    assert len(gzip.decompress(data).split(b"\n")) == 2 + len(index[1]) + len(index[2])


@given(indexes(), st.data())
@settings(deadline=None)
def test_a_damaged_index_is_refused_or_says_the_same(
    index: tuple[IndexHead, list[IndexEntry], list[IndexDead]], data: st.DataObject
) -> None:
    good = b"".join(build(*index))
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(bad))
    except BadIndex:
        return
    # Bytes of the gzip header that mean nothing (time, system) may differ.
    assert place < 10
    assert found == (index[0], [*index[1], *index[2]])


@given(indexes(), st.data())
@settings(deadline=None)
def test_an_index_that_is_cut_or_followed_by_something_is_refused(
    index: tuple[IndexHead, list[IndexEntry], list[IndexDead]], data: st.DataObject
) -> None:
    good = b"".join(build(*index))
    with pytest.raises(BadIndex):
        read(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(BadIndex):
        read(good + data.draw(st.binary(min_size=1, max_size=20)))


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(BadIndex):
        read(data)
    with pytest.raises(BadIndex):
        read(gzip.compress(data))


def entry(tape_file: int, offset: int, **changed: object) -> dict[str, object]:
    return {
        "tape_file": tape_file, "first_block": tape_file * 10, "offset": offset, "file_id": 1, "copy_number": 1,
        "size": 1, "adler32": "00000000", "digests": {}, "path": "/f", "mtime_ns": 0, "mode": 420, "owner": "a",
        "group": "g", "storage_class": "one", "collocation": "", "node": None, "parent": None, "created": 0,
        "epoch": 1, **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    "lines",
    [
        [entry(4, 512), entry(3, 512)],
        [entry(3, 512), entry(3, 512)],
        [entry(3, 512), entry(3, 1024, first_block=31)],
        [entry(3, 512), entry(4, 512, first_block=30)],
        [entry(2, 512), entry(3, 512)],
        [entry(9, 512), entry(10, 512)],
        [entry(3, 512)],
        [entry(3, 512), entry(4, 512), entry(5, 512)],
        [entry(3, 512), entry(4, 512, more=1)],
        [entry(3, 512), entry(4, 512, adler32="XXXXXXXX")],
        [entry(3, 512), entry(4, 512, path="f")],
        [entry(3, 512), entry(4, 512, size=-1)],
        [entry(3, 512), {"dead": {"tape_file": 5, "first_block": 1, "blocks": 1, "why": ""}}, entry(6, 512)],
        [entry(3, 512), entry(4, 512), {"dead": {"tape_file": 10, "first_block": 1, "blocks": 1, "why": ""}}],
        [entry(3, 512), entry(4, 512), {"dead": {"tape_file": 5}}],
        [entry(3, 512), entry(4, 512), []],
    ],
)
def test_what_cannot_be_true_of_a_volume_is_refused(lines: list[object]) -> None:
    head_line = json.loads(gzip.decompress(b"".join(build(head(0), []))).split(b"\n")[0])
    with pytest.raises(BadIndex):
        read(written([{**head_line, "entries": 2}, *lines]))


def test_a_small_index_that_swells_is_refused_before_it_fills_the_memory() -> None:
    head_line = gzip.decompress(b"".join(build(head(0), []))).split(b"\n")[0]
    with pytest.raises(BadIndex, match="longer"):
        read(gzip.compress(head_line + b"\n" + b" " * (40 * LINE_BYTES_MAX)))


def test_what_could_not_be_read_back_is_not_built() -> None:
    with pytest.raises(BadIndex):
        list(build(head(1), []))

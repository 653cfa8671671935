"""Traces as files: what is written is read again, and what is wrong is said with its line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeserver.simulator.generator import KINDS, generate
from tapeserver.simulator.trace import BadTrace, Trace
from tapeserver.simulator.tracefile import parse_trace, read_trace, trace_lines, write_trace

HEAD = '{"type": "trace", "version": 1}'
VOLUME = '{"type": "volume", "name": "A00001", "medium": "LTO-9", "capacity": 1000}'


def parse(*lines: str) -> Trace:
    return parse_trace(line.encode() for line in lines)


def test_a_trace_is_read_as_it_is_written() -> None:
    trace = parse(
        HEAD,
        VOLUME,
        '{"type": "request", "time": 1.5, "owner": "a", "group": "g", "cohort": 7, "files": [["A00001", 10, 20]]}',
        '{"type": "archive", "time": 2, "pool": "east", "bytes": 30, "priority": 3}',
        '{"type": "request", "time": 2.5, "files": [["A00001", 10, 20], ["A00001", 40, 0]]}',
    )
    assert parse(*trace_lines(trace)).request_times.tolist() == [1.5, 2.5]
    assert list(trace_lines(parse(*trace_lines(trace)))) == list(trace_lines(trace))
    assert trace.file_offsets.tolist() == [0, 1, 3]
    assert trace.request_cohorts.tolist() == [7, 0]
    assert (trace.pools, trace.archive_bytes.tolist()) == (["east"], [30])


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_a_file_brings_back_what_was_generated(name: str, tmp_path: Path) -> None:
    made = generate(KINDS["farm"], seed=3, requests=50, drives=4, load=1.0)
    write_trace(made, tmp_path / name, note="made")
    found = read_trace(tmp_path / name)
    for column in ("request_times", "file_offsets", "file_volumes", "file_starts", "file_bytes"):
        assert np.array_equal(getattr(found, column), getattr(made, column)), column
    assert [found.who[number] for number in found.request_who] == [made.who[number] for number in made.request_who]
    assert found.volumes == made.volumes
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("lines", "where", "what"),
    [
        ([], "", "is this a trace"),
        (["garbage"], "line 1: ", "docs/simulator.md"),
        ([VOLUME], "line 1: ", "first line"),
        (['{"type": "trace", "version": 2}'], "line 1: ", "version 2"),
        ([HEAD, HEAD], "line 2: ", "second head"),
        ([HEAD, "", VOLUME, VOLUME], "line 4: ", "twice"),
        ([HEAD, '{"type": "tape"}'], "line 2: ", "tape"),
        ([HEAD, VOLUME, '{"type": "request", "time": 1, "files": []}'], "line 3: ", "1 to"),
        ([HEAD, VOLUME, '{"type": "request", "time": 1, "files": [["B", 0, 1]]}'], "line 3: ", "B is not known"),
        ([HEAD, VOLUME, '{"type": "request", "time": 1, "files": [["A00001", 990, 20]]}'], "line 3: ", "not within"),
        ([HEAD, VOLUME, '{"type": "request", "time": -1, "files": [["A00001", 0, 1]]}'], "line 3: ", "time -1"),
        ([HEAD, VOLUME, '{"type": "request", "time": 1e999, "files": []}'], "line 3: ", ""),
        ([HEAD, VOLUME, '{"type": "request", "time": 1, "fils": []}'], "line 3: ", "fils"),
        ([HEAD, '{"type": "archive", "time": 5, "pool": "p", "bytes": 1}',
          '{"type": "archive", "time": 4, "pool": "p", "bytes": 1}'], "line 3: ", "sort the file by time"),
        ([HEAD, '{"type": "volume", "name": "A", "medium": "x", "capacity": 5, "written": 6}'], "line 2: ", "written"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(lines: list[str], where: str, what: str) -> None:
    with pytest.raises(BadTrace) as caught:
        parse(*lines)
    assert str(caught.value).startswith(where)
    assert what in str(caught.value)


def test_a_gzip_file_that_was_cut_is_a_bad_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    write_trace(generate(KINDS["farm"], seed=3, requests=50, drives=4, load=1.0), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadTrace, match="gzip"):
        read_trace(path)


def test_a_gzip_file_with_a_wrong_byte_is_a_bad_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    write_trace(generate(KINDS["farm"], seed=3, requests=50, drives=4, load=1.0), path)
    whole = path.read_bytes()
    for place in range(100, len(whole), 997):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(BadTrace):
            read_trace(path)


@pytest.mark.parametrize(("written", "name"), [("a.gz", "a"), ("a", "a.gz")])
def test_what_a_file_holds_counts_and_not_its_name(written: str, name: str, tmp_path: Path) -> None:
    write_trace(generate(KINDS["farm"], seed=3, requests=5, drives=4, load=1.0), tmp_path / written)
    (tmp_path / written).rename(tmp_path / name)
    assert read_trace(tmp_path / name).requests == 5


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(["type", "time", "files", "owner", "cohort", "name", "medium", "capacity", "pool", "bytes"])
_LINES = st.dictionaries(_FIELDS, _JSON | st.sampled_from(["request", "volume", "archive", "trace"]), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(_LINES.map(json.dumps) | st.text(max_size=30), max_size=6))
def test_whatever_a_file_holds_it_is_a_trace_or_a_bad_trace(lines: list[str]) -> None:
    with contextlib.suppress(BadTrace):
        trace = parse_trace(line.encode("utf-8", errors="surrogatepass") for line in [HEAD, VOLUME, *lines])
        assert len(trace.file_offsets) == trace.requests + 1


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_trace_are_refused(content: bytes) -> None:
    with pytest.raises(BadTrace):
        parse_trace([b"\xff" + content])

"""Traces as files: JSON lines, one object a line. The format stands in docs/simulator.md.

What is wrong with a line is said with its number and what to do about it, as `BadTrace`; nothing is repaired silently.
It does not know where a trace came from.
"""

from __future__ import annotations

import gzip
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from tapeserver.planner.views import Share
from tapeserver.simulator.trace import BadTrace, Trace, TraceVolume

VERSION = 1
GZIP_MAGIC = b"\x1f\x8b"
LINE_BYTES_MAX = 16 * 1024 * 1024
REQUESTS_MAX = 20_000_000
FILES_MAX = 100_000_000
FILES_PER_REQUEST_MAX = 100_000
VOLUMES_MAX = 1_000_000
TIME_MAX = 1e11
BYTES_MAX = 2**56
NAME_LENGTH_MAX = 255
PRIORITY_MAX = 1_000_000


class Head(msgspec.Struct, tag="trace", forbid_unknown_fields=True):
    version: int
    note: str = ""


class Volume(msgspec.Struct, tag="volume", forbid_unknown_fields=True):
    name: str
    medium: str
    capacity: int
    written: int = 0
    pool: str = ""


class Request(msgspec.Struct, tag="request", forbid_unknown_fields=True, gc=False):
    time: float
    #: volume, position on it, bytes
    files: list[tuple[str, int, int]]
    owner: str = ""
    group: str = ""
    activity: str = ""
    priority: int = 0
    cohort: int = 0


class Archive(msgspec.Struct, tag="archive", forbid_unknown_fields=True, gc=False):
    time: float
    pool: str
    bytes: int
    owner: str = ""
    group: str = ""
    activity: str = ""
    priority: int = 0


Line = Head | Volume | Request | Archive


def read_trace(path: Path) -> Trace:
    """The trace of a file, in gzip or not, whatever its name. Raises BadTrace, OSError."""
    with path.open("rb") as plain:
        opened: BinaryIO = gzip.GzipFile(fileobj=plain) if plain.peek(2)[:2] == GZIP_MAGIC else plain  # type: ignore[assignment]  # a GzipFile reads as a BinaryIO does
        try:
            return parse_trace(_lines(opened))
        except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
            raise BadTrace(f"not a whole gzip file ({problem}): copy it again") from problem


def parse_trace(lines: Iterable[bytes]) -> Trace:
    """Lines, each with or without its newline. Raises BadTrace."""
    decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
    building = _Building()
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            building.add(decoder.decode(line))
        except BadTrace as problem:
            raise BadTrace(f"line {number}: {problem}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise BadTrace(f"line {number}: {problem}: see docs/simulator.md for what a line holds") from problem
    if not building.headed:
        raise BadTrace(f'no line {{"type": "trace", "version": {VERSION}}} at its begin: is this a trace?')
    return building.trace()


def write_trace(trace: Trace, path: Path, *, note: str = "") -> None:
    """Writes it beside its name first: no reader sees half a file. Raises OSError."""
    new = path.with_name(path.name + ".new")
    with gzip.open(new, "wt", encoding="utf-8") if path.suffix == ".gz" else new.open("w", encoding="utf-8") as opened:
        opened.writelines(line + "\n" for line in trace_lines(trace, note=note))
    new.replace(path)


def trace_lines(trace: Trace, *, note: str = "") -> Iterator[str]:
    """The trace as lines without newlines: head, volumes, then requests and archives by time."""
    yield json.dumps({"type": "trace", "version": VERSION, **({"note": note} if note else {})})
    for volume in trace.volumes:
        yield json.dumps(
            {
                "type": "volume", "name": volume.name, "medium": volume.medium, "capacity": volume.capacity_bytes,
                "written": volume.written_bytes, "pool": volume.pool,
            }
        )  # fmt: skip
    archives = _archive_lines(trace)
    waiting = next(archives, None)
    for time, line in _request_lines(trace):
        while waiting is not None and waiting[0] < time:
            yield waiting[1]
            waiting = next(archives, None)
        yield line
    while waiting is not None:
        yield waiting[1]
        waiting = next(archives, None)


def _request_lines(trace: Trace) -> Iterator[tuple[float, str]]:
    names = [volume.name for volume in trace.volumes]
    offsets = trace.file_offsets.tolist()
    whos = [_who_fields(who) for who in trace.who]
    for row in range(trace.requests):
        rows = slice(offsets[row], offsets[row + 1])
        volumes = [names[volume] for volume in trace.file_volumes[rows].tolist()]
        files = zip(volumes, trace.file_starts[rows].tolist(), trace.file_bytes[rows].tolist(), strict=True)
        time = float(trace.request_times[row])
        document: dict[str, object] = {"type": "request", "time": time, **whos[int(trace.request_who[row])]}
        if trace.request_cohorts[row]:
            document["cohort"] = int(trace.request_cohorts[row])
        document["files"] = [list(file) for file in files]
        yield time, json.dumps(document)


def _archive_lines(trace: Trace) -> Iterator[tuple[float, str]]:
    whos = [_who_fields(who) for who in trace.who]
    for row in range(trace.archives):
        time = float(trace.archive_times[row])
        document = {
            "type": "archive", "time": time, "pool": trace.pools[int(trace.archive_pools[row])],
            "bytes": int(trace.archive_bytes[row]), **whos[int(trace.archive_who[row])],
        }  # fmt: skip
        yield time, json.dumps(document)


def _who_fields(who: Share) -> dict[str, object]:
    """Without what is empty: a million lines are read quicker."""
    fields: dict[str, object] = {"owner": who.owner, "group": who.group, "activity": who.activity}
    return {name: value for name, value in {**fields, "priority": who.priority}.items() if value}


def _lines(opened: BinaryIO) -> Iterator[bytes]:
    while line := opened.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise BadTrace(f"a line of more than {LINE_BYTES_MAX} bytes: is this a trace?")
        yield line


class _Building:
    """The columns of a trace while its lines come in."""

    def __init__(self) -> None:
        self.headed = False
        self._volumes: list[TraceVolume] = []
        self._volume_numbers: dict[str, int] = {}
        self._who: dict[tuple[str, str, str, int], int] = {}
        self._pools: dict[str, int] = {}
        self._times, self._archive_times = array("d"), array("d")
        self._request_who, self._cohorts, self._counts = array("q"), array("q"), array("q")
        self._file_volumes, self._starts, self._bytes = array("q"), array("q"), array("q")
        self._archive_who, self._archive_pools, self._archive_bytes = array("q"), array("q"), array("q")

    def add(self, line: Line) -> None:
        if isinstance(line, Head):
            if self.headed:
                raise BadTrace("a second head: two traces in one file? give one at a time")
            if line.version != VERSION:
                raise BadTrace(f"version {line.version} of the format: this program reads version {VERSION}")
            self.headed = True
        elif not self.headed:
            raise BadTrace(f'the first line has to be {{"type": "trace", "version": {VERSION}}}')
        elif isinstance(line, Request):
            self._request(line)
        elif isinstance(line, Volume):
            self._volume(line)
        else:
            self._archive(line)

    def _volume(self, line: Volume) -> None:
        if not 1 <= len(line.name) <= NAME_LENGTH_MAX:
            raise BadTrace(f"a volume's name has 1 to {NAME_LENGTH_MAX} characters")
        if line.name in self._volume_numbers:
            raise BadTrace(f"volume {line.name} stands there twice: remove one")
        if len(self._volumes) >= VOLUMES_MAX:
            raise BadTrace(f"more than {VOLUMES_MAX} volumes")
        if not 1 <= line.capacity <= BYTES_MAX:
            raise BadTrace(f"volume {line.name}: capacity {line.capacity} is not between 1 and {BYTES_MAX} bytes")
        if not 0 <= line.written <= line.capacity:
            raise BadTrace(f"volume {line.name}: written {line.written} is not between 0 and its capacity")
        self._volume_numbers[line.name] = len(self._volumes)
        self._volumes.append(
            TraceVolume(
                name=line.name, medium=line.medium, capacity_bytes=line.capacity, written_bytes=line.written,
                pool=line.pool,
            )
        )  # fmt: skip

    def _request(self, line: Request) -> None:
        self._in_order(line.time, self._times)
        if not 1 <= len(line.files) <= FILES_PER_REQUEST_MAX:
            raise BadTrace(f"a request has 1 to {FILES_PER_REQUEST_MAX} files, not {len(line.files)}")
        if len(self._times) >= REQUESTS_MAX or len(self._bytes) + len(line.files) > FILES_MAX:
            raise BadTrace(f"more than {REQUESTS_MAX} requests or {FILES_MAX} files: split the trace")
        if not 0 <= line.cohort < 2**62:
            raise BadTrace(f"cohort {line.cohort} is not a number from 0 on")
        for name, start, size in line.files:
            number = self._volume_numbers.get(name)
            if number is None:
                raise BadTrace(f"volume {name} is not known: its line has to stand above those that name it")
            if start < 0 or size < 0 or start + size > self._volumes[number].capacity_bytes:
                raise BadTrace(f"a file at {start} of {size} bytes is not within volume {name}")
            self._file_volumes.append(number)
            self._starts.append(start)
            self._bytes.append(size)
        self._times.append(line.time)
        self._request_who.append(self._who_number(line))
        self._cohorts.append(line.cohort)
        self._counts.append(len(line.files))

    def _archive(self, line: Archive) -> None:
        self._in_order(line.time, self._archive_times)
        if len(self._archive_times) >= FILES_MAX:
            raise BadTrace(f"more than {FILES_MAX} archives: split the trace")
        if not 0 <= line.bytes <= BYTES_MAX:
            raise BadTrace(f"an archive of {line.bytes} bytes")
        self._archive_times.append(line.time)
        self._archive_who.append(self._who_number(line))
        self._archive_pools.append(self._pools.setdefault(line.pool, len(self._pools)))
        self._archive_bytes.append(line.bytes)

    def _who_number(self, line: Request | Archive) -> int:
        if abs(line.priority) > PRIORITY_MAX:
            raise BadTrace(f"priority {line.priority} is not between -{PRIORITY_MAX} and {PRIORITY_MAX}")
        return self._who.setdefault((line.owner, line.group, line.activity, line.priority), len(self._who))

    @staticmethod
    def _in_order(time: float, before: Sequence[float]) -> None:
        if not isfinite(time) or not 0 <= time <= TIME_MAX:
            raise BadTrace(f"time {time} is not between 0 and {TIME_MAX:g} seconds")
        if before and time < before[-1]:
            raise BadTrace(f"time {time:g} is before that of the line above, {before[-1]:g}: sort the file by time")

    def trace(self) -> Trace:
        return Trace(
            volumes=self._volumes,
            who=[Share(*key) for key in self._who],
            pools=list(self._pools),
            request_times=np.array(self._times, dtype=np.float64),
            request_who=np.array(self._request_who, dtype=np.int64),
            request_cohorts=np.array(self._cohorts, dtype=np.int64),
            file_offsets=np.concatenate([[0], np.cumsum(np.array(self._counts, dtype=np.int64))]).astype(np.int64),
            file_volumes=np.array(self._file_volumes, dtype=np.int64),
            file_starts=np.array(self._starts, dtype=np.int64),
            file_bytes=np.array(self._bytes, dtype=np.int64),
            archive_times=np.array(self._archive_times, dtype=np.float64),
            archive_who=np.array(self._archive_who, dtype=np.int64),
            archive_pools=np.array(self._archive_pools, dtype=np.int64),
            archive_bytes=np.array(self._archive_bytes, dtype=np.int64),
        )

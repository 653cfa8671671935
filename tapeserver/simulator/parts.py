"""Parts of a trace: a request's files on one volume, as the engine hands them about. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tapeserver.simulator.trace import Integers, Trace

FEW_ROWS = 64


@dataclass(frozen=True, slots=True)
class Parts:
    """Lists where the engine asks for one value at a time (several times as quick as arrays), an array for slices."""

    #: parts of request r: offsets[r] to offsets[r + 1]
    offsets: list[int]
    requests: list[int]
    volumes: list[int]
    files: list[int]
    bytes: list[int]
    #: rows[firsts[p]:lasts[p]] are the files of part p
    firsts: list[int]
    lasts: list[int]
    rows: Integers
    #: the part of each file
    of_file: Integers

    def share_out(self, rows: Integers, sizes: Integers) -> Iterator[tuple[int, int, int]]:
        """(part, files, bytes) for rows of files that were read."""
        if len(rows) <= FEW_ROWS:
            # Most of the time it is a handful: arrays cost more to make than to fill.
            found: dict[int, tuple[int, int]] = {}
            for part, size in zip(self.of_file[rows].tolist(), sizes[rows].tolist(), strict=True):
                before = found.get(part, (0, 0))
                found[part] = before[0] + 1, before[1] + size
            return ((part, *some) for part, some in found.items())
        parts, inverse = np.unique(self.of_file[rows], return_inverse=True)
        files = np.bincount(inverse)
        bytes_ = np.bincount(inverse, weights=sizes[rows])
        return zip(parts.tolist(), files.tolist(), (int(size) for size in bytes_), strict=True)


def parts_of(trace: Trace) -> Parts:
    requests = np.repeat(np.arange(trace.requests), np.diff(trace.file_offsets))
    rows = np.lexsort((trace.file_volumes, requests))
    of_request, volumes = requests[rows], trace.file_volumes[rows]
    begins = np.ones(len(rows), dtype=bool)
    begins[1:] = (of_request[1:] != of_request[:-1]) | (volumes[1:] != volumes[:-1])
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(rows)) if len(firsts) else firsts
    of_file = np.empty(len(rows), dtype=np.int64)
    of_file[rows] = np.cumsum(begins) - 1
    sizes = np.add.reduceat(trace.file_bytes[rows], firsts) if len(firsts) else firsts
    return Parts(
        offsets=np.searchsorted(of_request[firsts], np.arange(trace.requests + 1)).tolist(),
        requests=of_request[firsts].tolist(),
        volumes=volumes[firsts].tolist(),
        files=(lasts - firsts).tolist(),
        bytes=sizes.tolist(),
        firsts=firsts.tolist(),
        lasts=lasts.tolist(),
        rows=rows.astype(np.int64),
        of_file=of_file,
    )


def has_repeats(trace: Trace) -> bool:
    """Whether any file is wanted more than once."""
    by_place = np.lexsort((trace.file_starts, trace.file_volumes))
    volumes, starts = trace.file_volumes[by_place], trace.file_starts[by_place]
    return bool(((volumes[1:] == volumes[:-1]) & (starts[1:] == starts[:-1])).any())

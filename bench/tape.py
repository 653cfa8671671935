"""Between a virtual tape and the cache, both ways, with checksums: from the wish until it is fulfilled.

Everything is in it: planning, mounting, label checks, positioning. The peer copies the same bytes on the same file
system with `cp --reflink=never` and fsyncs the copy.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench.measure import PAIRS, Row, fsync_file, interleaved
from bench.rawhttp import put
from bench.workplace import Workplace
from catalog.units import GIB, MB, MIB

BUDGET_SECONDS = 70.0
_DIRECTORY = "/bench-tape"


def run_archive(place: Workplace) -> list[Row]:
    """From the moment the libraries are up, with one urgent file waiting, until its copy is in the catalog."""
    size = 128 * MIB if place.quick else GIB
    place.make_directory(_DIRECTORY)
    original, copy = place.make_file("archive-original", size), place.scratch / "archive-copy"
    with place.look() as look:

        def ours(number: int) -> float:
            path = f"{_DIRECTORY}/archive-{number}"
            place.libraries("down")
            put(place.put_url(path, size), size, place.block)
            place.site.call("POST", "/api/capstan/v1/archive-wait", {"paths": [path]})
            began = time.perf_counter()
            place.libraries("up")
            place.wait(lambda: look.value("select count(*) from archive") == 0, "the archive", pause_seconds=0.002)
            took = time.perf_counter() - began
            place.remove(path)
            return size / took / MB

        pairs = interleaved(ours, lambda _: _copied(original, copy, size), rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    original.unlink()
    return [
        Row(
            name="cache to tape with checksum, mount included, beside cp and fsync",
            value=pairs.value,
            unit="MB/s",
            peer=pairs.peer,
            at_least=0.5,
            note=f"{size // MIB} MiB, {pairs.note}",
        )
    ]


def _copied(original: Path, copy: Path, size: int) -> float:
    """MB/s of a copy that is on the disk at the end."""
    began = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", str(original), str(copy)], check=True)
    fsync_file(copy)
    took = time.perf_counter() - began
    copy.unlink()
    return size / took / MB


def run(place: Workplace) -> list[Row]:
    size = 128 * MIB if place.quick else GIB
    place.make_directory(_DIRECTORY)
    path = f"{_DIRECTORY}/file"
    put(place.put_url(path, size), size, place.block)
    original, copy = place.make_file("tape-original", size), place.scratch / "tape-copy"
    place.drop(path)
    with place.look() as look:

        def ours(number: int) -> float:
            # A drive that still holds the volume would make it too easy.
            place.wait(lambda: look.value("select count(*) from mount") == 0, "the drives to be free")
            began = time.perf_counter()
            request = place.stage([path])
            place.wait_staged(look, request, pause_seconds=0.002)
            took = time.perf_counter() - began
            place.end_request(request)
            place.drop(path)
            return size / took / MB

        pairs = interleaved(ours, lambda _: _copied(original, copy, size), rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    original.unlink()
    place.remove(path)
    return [
        Row(
            name="tape to cache with checksum, mount included, beside cp and fsync",
            value=pairs.value,
            unit="MB/s",
            peer=pairs.peer,
            at_least=0.5,
            note=pairs.note,
        )
    ]

"""Between a virtual tape and the cache, both ways, with checksums: from the wish until it is fulfilled.

Everything is in it: planning, mounting, label checks, positioning. The peer copies the same bytes on the same file
system with `cp --reflink=never` and fsyncs the copy. What a mount costs whatever its data are is told beside it: the
same for a file of one byte.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measure import PAIRS, Row, cpu_seconds_of_ended_children, interleaved
from bench.rawhttp import put
from bench.workplace import Workplace
from catalog.durable import sync_path
from catalog.units import GIB, MB, MIB

BUDGET_SECONDS = 90.0
TARGET = 0.5
_DIRECTORY = "/bench-tape"


def run_archive(place: Workplace) -> list[Row]:
    """From the moment the libraries are up, with one urgent file waiting, until its copy is in the catalog."""
    with place.look() as look:

        def work() -> None:
            place.libraries("up")
            place.wait(lambda: look.value("select count(*) from archive") == 0, "the archive", pause_seconds=0.002)

        def archived(size: int, number: int) -> Spent:
            path = f"{_DIRECTORY}/archive-{number}-{size}"
            place.libraries("down")
            put(place.put_url(path, size), size, place.block)
            place.site.call("POST", "/api/capstan/v1/archive-wait", {"paths": [path]})
            spent = _spent(place, work)
            place.remove(path)
            return spent

        return _rows(place, "cache to tape", archived)


def run(place: Workplace) -> list[Row]:
    """From the stage request of a file that is on tape alone until it is on disk."""
    with place.look() as look:

        def recalled(size: int, number: int) -> Spent:
            path = f"{_DIRECTORY}/file-{size}"
            if number == 0:
                put(place.put_url(path, size), size, place.block)
                place.drop(path)
            # A drive that still holds the volume would make it too easy.
            place.wait(lambda: look.value("select count(*) from mount") == 0, "the drives to be free")
            request = ""

            def work() -> None:
                nonlocal request
                request = place.stage([path])
                place.wait_staged(look, request, pause_seconds=0.002)

            spent = _spent(place, work)
            place.end_request(request)
            place.drop(path)
            return spent

        return _rows(place, "tape to cache", recalled)


@dataclass(frozen=True, slots=True)
class Spent:
    seconds: float
    #: processor seconds by kind of process
    cpu: dict[str, float]


def _spent(place: Workplace, work: Callable[[], None]) -> Spent:
    before = place.cpu_by_kind()
    began = time.perf_counter()
    work()
    took = time.perf_counter() - began
    return Spent(took, {kind: seconds - before[kind] for kind, seconds in place.cpu_by_kind().items()})


def _rows(place: Workplace, way: str, spent_by: Callable[[int, int], Spent]) -> list[Row]:
    """`spent_by(size, number)`: one round with a file of `size` bytes."""
    size = 128 * MIB if place.quick else GIB
    place.make_directory(_DIRECTORY)
    original, copy = place.make_file("tape-original", size), place.scratch / "tape-copy"
    fixed: list[float] = []
    spent: list[Spent] = []
    peers: list[float] = []

    def ours(number: int) -> float:
        fixed.append(spent_by(1, number).seconds)
        spent.append(spent_by(size, number))
        return size / spent[-1].seconds / MB

    def peer(number: int) -> float:
        before = _own_seconds()
        rate = _copied(original, copy, size)
        peers.append(_own_seconds() - before)
        return rate

    pairs = interleaved(ours, peer, rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    original.unlink()
    # Of each the first is the warming-up.
    fixed, spent, peers = fixed[1:], spent[1:], peers[1:]
    mount = statistics.median(fixed)
    alone = size / max(1e-3, statistics.median(one.seconds for one in spent) - mount) / MB
    cpu = {kind: statistics.median(one.cpu[kind] for one in spent) * GIB / size for kind in spent[0].cpu}
    label = f"{size // MIB} MiB"
    return [
        Row(
            name=f"{way} with checksum, mount included, beside cp and fsync",
            value=pairs.value, unit="MB/s", peer=pairs.peer, at_least=TARGET, note=f"{label}, {pairs.note}",
        ),
        Row(
            name=f"{way}: the same without what a file of one byte takes", value=alone, unit="MB/s", peer=pairs.peer,
            note="the same rounds; a difference of medians",
        ),
        Row(
            name=f"{way}: what a file of one byte takes, mount included", value=mount, unit="s",
            note=f"{len(fixed)} rounds, {min(fixed):.2f} to {max(fixed):.2f}",
        ),
        Row(
            name=f"{way}: processor time, beside cp and fsync", value=sum(cpu.values()), unit="s/GiB",
            peer=statistics.median(peers) * GIB / size,
            note=", ".join(f"{kind} {seconds:.2f}" for kind, seconds in cpu.items()),
        ),
    ]  # fmt: skip


def _own_seconds() -> float:
    """Processor time of this process and of the commands it ran."""
    return time.process_time() + cpu_seconds_of_ended_children(os.getpid())


def _copied(original: Path, copy: Path, size: int) -> float:
    """MB/s of a copy that is on the disk at the end."""
    began = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", str(original), str(copy)], check=True)
    sync_path(copy)
    took = time.perf_counter() - began
    copy.unlink()
    return size / took / MB

"""Small files of 10 KiB in bundles: put, archive, recall; files per second, and processor time of all processes.

One round is the life of one fresh directory: put while the libraries are down, a plain copy of the same files, then
the libraries up until all is on tape, dropped from the disk, and recalled by one stage request. The peer is a plain
copy that fsyncs each file.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

from bench.measure import PAIRS, PAIRS_MIN, Row, cpu_seconds_of_ended_children
from bench.workplace import Look, Workplace
from catalog.durable import sync_path
from catalog.units import KIB

BUDGET_SECONDS = 150.0
FILES, FILES_QUICK = 2000, 50
FILES_PER_SECOND_MIN = 1000.0
#: two processors that do nothing else then do a thousand files a second
CPU_MS_MAX = 2.0
LABELS = {"put": "tput -r", "archive": "to tape", "recall": "from tape to disk"}
_SIZE = 10 * KIB


def run(place: Workplace) -> list[Row]:
    number = FILES_QUICK if place.quick else FILES
    took: dict[str, list[float]] = {"put": [], "archive": [], "recall": [], "copy": []}
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
    began, longest = time.monotonic(), 0.0
    with place.look() as look:
        # Round 0 is the warming-up.
        for at in range(PAIRS + 1):
            started = time.monotonic()
            if at > PAIRS_MIN and started + longest > began + BUDGET_SECONDS:
                break
            rates, cpu = _round(place, look, at, number)
            if at:
                for name, rate in rates.items():
                    took[name].append(rate)
                for name, processes in cpu.items():
                    spent[name].append(processes)
            longest = max(longest, time.monotonic() - started)
    peer = statistics.median(took["copy"])
    return [
        Row(
            name=f"small files: {label}, 10 KiB each, beside a plain copy with fsync",
            value=statistics.median(took[name]),
            unit="files/s",
            peer=peer,
            of="value",
            at_least=FILES_PER_SECOND_MIN,
            note=_note(took[name], number),
        )
        for name, label in LABELS.items()
    ] + [_cpu_row(label, spent[name], None if name == "put" else CPU_MS_MAX) for name, label in LABELS.items()]


def _cpu_row(label: str, rounds: list[dict[str, float]], at_most: float | None) -> Row:
    kinds = sorted({kind for one in rounds for kind in one})
    each = {kind: statistics.median(one.get(kind, 0.0) for one in rounds) for kind in kinds}
    return Row(
        name=f"small files: {label}, processor time of all processes",
        value=statistics.median(sum(one.values()) for one in rounds),
        unit="ms/file",
        of="value",
        at_most=at_most,
        note=", ".join(f"{kind} {value:.2f}" for kind, value in each.items()),
    )


def _note(rates: list[float], number: int) -> str:
    short = "" if len(rates) >= PAIRS else f" of {PAIRS}: out of time"
    return f"{len(rates)} rounds{short} of {number:,} files, {min(rates):.0f} to {max(rates):.0f}"


def _round(place: Workplace, look: Look, at: int, number: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Files per second of each part, and milliseconds of processor time per file by kind of process."""
    directory, target = place.scratch / f"small{at}", f"/bench-small/{at}"
    place.make_small_files(directory, number, _SIZE)
    place.libraries("down")
    rates: dict[str, float] = {}
    cpu: dict[str, dict[str, float]] = {}

    before = place.cpu_by_kind()
    began, own = time.perf_counter(), cpu_seconds_of_ended_children(os.getpid())
    place.site.run(["tput", "-r", str(directory), target])
    rates["put"] = number / (time.perf_counter() - began)
    cpu["put"] = _per_file(before, place.cpu_by_kind(), number)
    cpu["put"]["tput"] = (cpu_seconds_of_ended_children(os.getpid()) - own) * 1000 / number

    began = time.perf_counter()
    plain_copy(directory, place.scratch / f"copy{at}")
    rates["copy"] = number / (time.perf_counter() - began)

    paths = [f"{target}/{name.name}" for name in sorted(directory.iterdir())]
    place.site.call("POST", "/api/capstan/v1/archive-wait", {"paths": paths})
    before = place.cpu_by_kind()
    began = time.perf_counter()
    place.libraries("up")
    place.wait(lambda: look.value("select count(*) from archive") == 0, "the archives", pause_seconds=0.01)
    rates["archive"] = number / (time.perf_counter() - began)
    cpu["archive"] = _per_file(before, place.cpu_by_kind(), number)

    place.drop(target)
    place.wait(lambda: look.value("select count(*) from mount") == 0, "the drives to be free")
    gone = "select count(*) from replica where state = 'evicting'"
    place.wait(lambda: look.value(gone) == 0, "the files to be off the disk")
    before = place.cpu_by_kind()
    began = time.perf_counter()
    request = place.stage(paths)
    place.wait_staged(look, request)
    rates["recall"] = number / (time.perf_counter() - began)
    cpu["recall"] = _per_file(before, place.cpu_by_kind(), number)

    place.end_request(request)
    for used in (directory, place.scratch / f"copy{at}"):
        shutil.rmtree(used)
    return rates, cpu


def _per_file(before: dict[str, float], after: dict[str, float], number: int) -> dict[str, float]:
    return {kind: (seconds - before[kind]) * 1000 / number for kind, seconds in after.items()}


def plain_copy(source: Path, target: Path) -> None:
    """Each file read, written and fsynced, one after the other; the directory at the end."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with (target / path.name).open("wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    sync_path(target)

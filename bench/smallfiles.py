"""Small files of 10 KiB: put, archive, recall, in files per second, beside a plain copy that fsyncs each file.

One round is the life of one fresh directory: put while the libraries are down, a plain copy of the same files, then
the libraries up until all is on tape, dropped from the disk, and recalled by one stage request.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

from bench.measure import PAIRS, PAIRS_MIN, Row, fsync_directory
from bench.workplace import Look, Workplace
from catalog.units import KIB

BUDGET_SECONDS = 150.0
FILES, FILES_QUICK = 500, 50
_SIZE = 10 * KIB


def run(place: Workplace) -> list[Row]:
    number = FILES_QUICK if place.quick else FILES
    took: dict[str, list[float]] = {"put": [], "archive": [], "recall": [], "copy": []}
    began, longest = time.monotonic(), 0.0
    with place.look() as look:
        # Round 0 is the warming-up.
        for at in range(PAIRS + 1):
            started = time.monotonic()
            if at > PAIRS_MIN and started + longest > began + BUDGET_SECONDS:
                break
            rates = _round(place, look, at, number)
            if at:
                for name, rate in rates.items():
                    took[name].append(rate)
            longest = max(longest, time.monotonic() - started)
    peer = statistics.median(took["copy"])
    return [
        Row(
            name=f"small files: {label}, 10 KiB each, beside a plain copy with fsync",
            value=statistics.median(took[name]),
            unit="files/s",
            peer=peer,
            note=_note(took[name], number),
        )
        for name, label in (("put", "tput -r"), ("archive", "to tape"), ("recall", "from tape to disk"))
    ]


def _note(rates: list[float], number: int) -> str:
    short = "" if len(rates) >= PAIRS else f" of {PAIRS}: out of time"
    return f"{len(rates)} rounds{short} of {number:,} files, {min(rates):.0f} to {max(rates):.0f}"


def _round(place: Workplace, look: Look, at: int, number: int) -> dict[str, float]:
    directory, target = place.scratch / f"small{at}", f"/bench-small/{at}"
    place.make_small_files(directory, number, _SIZE)
    place.libraries("down")
    rates = {}

    began = time.perf_counter()
    place.site.run(["tput", "-r", str(directory), target])
    rates["put"] = number / (time.perf_counter() - began)

    began = time.perf_counter()
    plain_copy(directory, place.scratch / f"copy{at}")
    rates["copy"] = number / (time.perf_counter() - began)

    paths = [f"{target}/{name.name}" for name in sorted(directory.iterdir())]
    place.site.call("POST", "/api/capstan/v1/archive-wait", {"paths": paths})
    began = time.perf_counter()
    place.libraries("up")
    place.wait(lambda: look.value("select count(*) from archive") == 0, "the archives", pause_seconds=0.01)
    rates["archive"] = number / (time.perf_counter() - began)

    place.drop(target)
    began = time.perf_counter()
    request = place.stage(paths)
    place.wait_staged(look, request)
    rates["recall"] = number / (time.perf_counter() - began)

    place.end_request(request)
    for used in (directory, place.scratch / f"copy{at}"):
        shutil.rmtree(used)
    return rates


def plain_copy(source: Path, target: Path) -> None:
    """Each file read, written and fsynced, one after the other; the directory at the end."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with (target / path.name).open("wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
    fsync_directory(target)

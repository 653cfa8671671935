"""The order of reads on one volume: seconds of locate against LKH, against the assignment bound, and what it costs.

No site is needed: requests are drawn by seed, and `tapeserver.ordering` orders them. LKH (by elkai) and the assignment
problem (by scipy) are oracles that this benchmark alone uses; without them their rows are missing. Times are processor
time of one core.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import Row
from catalog.units import GB, MB, MIB
from tapeserver import ordering, orderplain
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.ordernodes import nodes_of

SEEDS, SEEDS_QUICK = 10, 2
SIZES = {"0.2 GB": 200 * MB, "3 GB": 3 * GB}
#: what the search may at most be above LKH, and above the bound
LKH_MOST = 1.02
BOUND_MOST = {32: 1.10, 128: 1.06, 512: 1.03, 2000: 1.07}
LKH_RUNS = {32: 5, 128: 5, 512: 1}
#: files of one cluster lie within so many file lengths
CLUSTER_FILES, CLUSTER_WIDTH = 16, 64
#: a number that is no cost: LKH takes whole numbers, so a second is a thousand
LKH_UNIT = 1000
MATRIX_NEVER = 1e6
MEMORY_MOST_MIB = 1024


@dataclass(slots=True)
class Case:
    """One medium, size, layout and number of files; ratios of our seconds of locate to the others', seed by seed."""

    medium: str
    size: str
    layout: str
    files: int
    lkh: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    simple: list[float] = field(default_factory=list)
    seconds_per_file: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    plain_to_ours: list[float] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return f"{self.size} {self.layout}"


def run(quick: bool) -> list[Row]:
    if not ordering.warm_up():
        return [Row(name="order of reads: numba is missing", value=0, unit="")]
    seeds = SEEDS_QUICK if quick else SEEDS
    rows: list[Row] = []
    for medium in ("LTO-7", "LTO-9"):
        for files in (32, 128) if quick else (32, 128, 512, 2000):
            cases = [case for case in _cases(medium, files) if _measured(case, seeds)]
            rows += list(_rows(medium, files, cases, seeds))
    for files, most in ((512, 1.0),) if quick else ((512, 1.0), (10_000, 10.0)):
        rows += _cost(files, most)
    return rows


def _cases(medium: str, files: int) -> Iterator[Case]:
    for size, length in SIZES.items():
        for layout in ("random", "clustered"):
            # More would be the whole tape, in which there is no order to choose.
            if 2 * files * length < model_of(medium).capacity_bytes:
                yield Case(medium, size, layout, files)


def requests(geometry: Geometry, length: int, layout: str, files: int, seed: int) -> NDArray[np.int64]:
    """Starts of `files` files of `length` bytes on a full volume, in no order."""
    random = np.random.default_rng(seed)
    places = geometry.capacity_bytes // length
    if layout == "random":
        return random.choice(places, files, replace=False) * length
    centres = random.integers(0, places, max(1, files // CLUSTER_FILES))
    chosen: NDArray[np.int64] = np.empty(0, np.int64)
    while len(chosen) < files:
        near = centres[random.integers(0, len(centres), files)] + random.integers(0, CLUSTER_WIDTH, files)
        chosen = np.unique(np.concatenate((chosen, near % places)))
    return random.permutation(chosen)[:files] * length


def _measured(case: Case, seeds: int) -> bool:
    geometry, length = Geometry(model_of(case.medium)), SIZES[case.size]
    for seed in range(seeds):
        starts = requests(geometry, length, case.layout, case.files, seed)
        lengths = np.full(len(starts), length)
        began = time.process_time()
        ours = ordering.order_reads(geometry, starts, lengths).locate_seconds
        case.took.append(time.process_time() - began)
        case.seconds_per_file.append(ours / case.files)
        case.plain_to_ours.append(ordering.order_reads(geometry, starts, lengths, plain=True).locate_seconds / ours)
        nodes = nodes_of(geometry, starts, lengths, 0, None)
        simple = (orderplain.block_order(nodes), orderplain.nearest_first(nodes))
        case.simple.append(ours / min(orderplain.motion_seconds(nodes, order) for order in simple))
        links = geometry.locate_matrix(np.append(0, starts + lengths), starts)
        bound = _assignment_bound(links)
        if bound is not None:
            case.bound.append(ours / bound)
        if case.files in LKH_RUNS and (case.files < 512 or case.medium == "LTO-7"):
            found = _lkh(links, LKH_RUNS[case.files])
            if found is not None:
                case.lkh.append(ours / found)
    return True


def _assignment_bound(links: NDArray[np.float64]) -> float | None:
    """The cheapest way to leave every file but one and come to every file, which no path can undercut."""
    optimize = _optional("scipy.optimize")
    if optimize is None:
        return None
    count = links.shape[1]
    square = np.zeros((count + 1, count + 1))
    square[:, 1:] = links
    square[np.arange(count + 1), np.arange(count + 1)] = MATRIX_NEVER
    rows, columns = optimize.linear_sum_assignment(square)
    return float(square[rows, columns].sum())


def _lkh(links: NDArray[np.float64], runs: int) -> float | None:
    elkai = _optional("elkai")
    if elkai is None:
        return None
    count = links.shape[1]
    square = np.zeros((count + 1, count + 1))
    square[:, 1:] = links
    np.fill_diagonal(square, 0)
    ring = elkai.DistanceMatrix(np.rint(square * LKH_UNIT).astype(int).tolist()).solve_tsp(runs)[:-1]
    first = ring.index(0)
    path = ring[first:] + ring[:first]
    return float(square[path[:-1], path[1:]].sum())


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _rows(medium: str, files: int, cases: list[Case], seeds: int) -> Iterator[Row]:
    about = f"{medium}, {files} files"
    means = {case.kind: statistics.mean(case.seconds_per_file) for case in cases}
    took = max(max(case.took) for case in cases)
    seconds = ", ".join(f"{kind} {value:.2f} s/file" for kind, value in means.items())
    for what, most in (("LKH", LKH_MOST), ("the assignment bound", BOUND_MOST[files])):
        ratios = {case.kind: case.lkh if what == "LKH" else case.bound for case in cases}
        kept = {kind: statistics.mean(found) for kind, found in ratios.items() if found}
        if kept:
            worst = max(max(found) for found in ratios.values() if found)
            dearest = max(cases, key=lambda case: kept.get(case.kind, 0.0))
            # Where LKH is no nearer to the bound, nobody is: it is a bound on any path, not a path.
            own = [bound / lkh for bound, lkh in zip(dearest.bound, dearest.lkh, strict=False)]
            beside = f"; LKH's own on {dearest.kind} {statistics.mean(own):.4f}" if what != "LKH" and own else ""
            yield Row(
                name=f"order of reads, {about}, beside {what}: the worst kind's mean",
                value=max(kept.values()), unit="x", of="value", at_most=most,
                note=f"{seeds} seeds, {', '.join(f'{kind} {value:.4f}' for kind, value in kept.items())};"
                f" worst single {worst:.3f}{beside}; at most {took:.2f} s of processor",
            )  # fmt: skip
    yield Row(
        name=f"order of reads, {about}, beside the better of block order and nearest first: the worst single",
        value=round(max(max(case.simple) for case in cases), 9), unit="x", of="value", at_most=1.0, note=seconds,
    )  # fmt: skip
    yield Row(
        name=f"order of reads, {about}, without numba beside with it",
        value=statistics.mean(ratio for case in cases for ratio in case.plain_to_ours), unit="x",
    )  # fmt: skip


def _cost(files: int, seconds_most: float) -> list[Row]:
    """In a process of its own: what it takes of processor and memory, compiled and warm."""
    command = [sys.executable, "-m", "bench.order", str(files)]
    told = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    )
    return [
        Row(
            name=f"order of {files:,} reads: processor time",
            value=told["seconds"], unit="s", of="value", at_most=seconds_most,
            note=f"LTO-9, 0.2 GB at random; without numba {told['plain']:.1f} s; warming up {told['warm_up']:.1f} s",
        ),
        Row(
            name=f"order of {files:,} reads: most memory of the process",
            value=told["memory_mib"], unit="MiB", of="value", at_most=MEMORY_MOST_MIB, note="numba and all",
        ),
    ]  # fmt: skip


def _memory_most_mib() -> float:
    """The most that this process had; getrusage would count what its parent had before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) * 1024 / MIB


def main() -> None:
    files = int(sys.argv[1])
    geometry = Geometry(model_of("LTO-9"))
    began = time.process_time()
    ordering.warm_up()
    warm = time.process_time()
    starts = requests(geometry, SIZES["0.2 GB"], "random", files, 0)
    lengths = np.full(files, SIZES["0.2 GB"])
    ordering.order_reads(geometry, starts, lengths)
    done = time.process_time()
    memory = _memory_most_mib()
    ordering.order_reads(geometry, starts, lengths, plain=True)
    plain = time.process_time() - done
    print(json.dumps({"seconds": done - warm, "warm_up": warm - began, "memory_mib": memory, "plain": plain}))


if __name__ == "__main__":
    main()

"""GET and PUT of 1 GiB: the cache server beside nginx, the same bare client, with the servers' processor time.

The libraries are down meanwhile, so that no drive reads or writes the same disk.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from bench.measure import PAIRS, Row, cpu_seconds, interleaved
from bench.nginx import MISSING, Nginx, find_nginx
from bench.rawhttp import get, put
from bench.workplace import Workplace
from catalog.durable import sync_path
from catalog.units import GB, GIB, MIB

BUDGET_SECONDS = 80.0
_DIRECTORY = "/bench-transfer"


def run_get(place: Workplace) -> list[Row]:
    """GET of a file whose replica is in the page cache; nginx serves the very same replica."""
    size = 128 * MIB if place.quick else GIB
    place.make_directory(_DIRECTORY)
    path, cpu = f"{_DIRECTORY}/get", {"ours": [0.0], "peer": [0.0]}
    place.libraries("down")
    put(place.put_url(path, size), size, place.block)
    replica = Path(place.where(path)["cache_path"])
    servers, program = place.pids("cacheserver"), find_nginx()
    with ExitStack() as stack:
        nginx = _nginx(stack, program, place, replica.parent)

        def ours(number: int) -> float:
            url, before = place.get_url(path), cpu_seconds(servers)
            took = get(url, size)
            cpu["ours"].append(cpu_seconds(servers) - before)
            return size / took / GB

        def peer(number: int) -> float:
            assert nginx is not None
            before = cpu_seconds(nginx.workers)
            took = get(f"{nginx.url}/get/{replica.name}", size)
            cpu["peer"].append(cpu_seconds(nginx.workers) - before)
            return size / took / GB

        pairs = interleaved(ours, peer if nginx else None, rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    place.libraries("up")
    place.remove(path)
    note = pairs.note if nginx else f"{pairs.note}; {MISSING}"
    # The first two of each are the empty start of the list and the warming-up.
    rounds = max(1, len(pairs.ours))
    ours_cpu, peer_cpu = sum(cpu["ours"][2:]) / rounds, sum(cpu["peer"][2:]) / rounds if nginx else None
    label = _label(size)
    return [
        Row(
            name=f"GET {label} from a cache server, beside nginx sendfile",
            value=pairs.value, unit="GB/s", peer=pairs.peer, at_least=0.75, note=note,
        ),
        Row(
            name=f"GET {label}: processor time of the server, beside nginx",
            value=ours_cpu * GIB / size, unit="s/GiB", peer=peer_cpu and peer_cpu * GIB / size, at_most=2.0,
            note="mean",
        ),
    ]  # fmt: skip


def run_put(place: Workplace) -> list[Row]:
    """PUT with adler32, fsync of file and directory and commit; nginx stores, then file and directory are fsynced."""
    size = 128 * MIB if place.quick else GIB
    place.make_directory(_DIRECTORY)
    place.libraries("down")
    program, stored = find_nginx(), place.directory / "nginx" / "stored"
    with ExitStack() as stack:
        nginx = _nginx(stack, program, place, place.scratch)

        def ours(number: int) -> float:
            path = f"{_DIRECTORY}/put{number}"
            took = put(place.put_url(path, size), size, place.block)
            place.remove(path)
            return size / took / GB

        def peer(number: int) -> float:
            assert nginx is not None
            began = time.perf_counter()
            put(f"{nginx.url}/put/{number}", size, place.block)
            sync_path(stored / str(number))
            sync_path(stored)
            took = time.perf_counter() - began
            (stored / str(number)).unlink()
            return size / took / GB

        pairs = interleaved(ours, peer if nginx else None, rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    place.libraries("up")
    note = pairs.note if nginx else f"{pairs.note}; {MISSING}"
    name = f"PUT {_label(size)} with adler32 and fsync, beside nginx dav and fsync"
    return [Row(name=name, value=pairs.value, unit="GB/s", peer=pairs.peer, at_least=0.8, note=note)]


def _nginx(stack: ExitStack, program: str | None, place: Workplace, read: Path) -> Nginx | None:
    if program is None:
        return None
    home = place.directory / "nginx"
    return stack.enter_context(Nginx(program, home, read=read, write=home / "stored"))


def _label(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"

"""`python -m bench`: runs the benchmarks on a site of its own, prints the table, writes bench/results.json.

python -m bench                  # everything, half an hour or more
python -m bench --quick          # small sizes: whether it works, not how fast it is
python -m bench --only get,put   # some of it; the file then holds these rows only
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from bench import decision, order, planner, plans, simulator, smallfiles, staging, tape, transfer
from bench.measure import Row
from bench.workplace import Workplace, workplace

RESULTS = Path(__file__).with_name("results.json")
BENCHMARKS: dict[str, Callable[[Workplace], list[Row]]] = {
    "get": transfer.run_get,
    "put": transfer.run_put,
    "small": smallfiles.run,
    "tape": tape.run,
    "archive": tape.run_archive,
    "native": plans.run_native,
    "space": plans.run_space,
    "rebuild": plans.run_rebuild,
    "release": staging.run_release,
    "stage": staging.run_request,
}
#: those that need no site; the argument says whether to be quick
PURE_BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "order": order.run,
    "planner": planner.run,
    "decision": decision.run,
    "simulator": simulator.run,
}
ALL_BENCHMARKS = (*BENCHMARKS, *PURE_BENCHMARKS)
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Capstan's numbers, each beside its peer")
    parser.add_argument("--quick", action="store_true", help="small sizes; the figures then mean little")
    parser.add_argument(
        "--only", default=",".join(ALL_BENCHMARKS), metavar="NAMES", help=f"of {', '.join(ALL_BENCHMARKS)}"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the rows are written as JSON")
    options = parser.parse_args(arguments)
    names = [name for name in options.only.split(",") if name]
    if unknown := [name for name in names if name not in ALL_BENCHMARKS]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(ALL_BENCHMARKS)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        rows = run(names, quick=options.quick)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
    options.output.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")
    print(f"written to {options.output}")
    return 0


def run(names: list[str], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    # Those without a site first: nothing else runs meanwhile.
    for name in (name for name in names if name in PURE_BENCHMARKS):
        rows += _timed(name, lambda name=name: PURE_BENCHMARKS[name](quick))
    on_site = [name for name in names if name in BENCHMARKS]
    if on_site:
        with workplace(quick=quick) as place:
            for name in on_site:
                rows += _timed(name, lambda name=name: BENCHMARKS[name](place))
    return rows


def _timed(name: str, benchmark: Callable[[], list[Row]]) -> list[Row]:
    began = time.monotonic()
    print(f"{name} …", flush=True)
    rows = benchmark()
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return rows


def table(rows: list[Row]) -> Table:
    shown = Table(title="Capstan beside its peers (medians)", title_justify="left")
    for name in ("what", "value", "unit", "peer", "ratio", "target", "met", "note"):
        shown.add_column(name, justify="right" if name in ("value", "peer", "ratio") else "left", overflow="fold")
    for row in rows:
        document = row.as_json()
        met = {True: "yes", False: "NO", None: "reported"}[row.met]
        numbers = ["" if document[name] is None else f"{document[name]:,.4g}" for name in ("value", "peer", "ratio")]
        shown.add_row(row.name, numbers[0], row.unit, *numbers[1:], document["target"] or "", met, row.note)
    return shown


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

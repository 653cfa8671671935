"""`capstan cache`: the cache servers; `capstan cache drop PATH…` makes room by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table
from catalog.units import show_bytes
from client.cli.common import counted

COLUMNS = {
    "name": "cache server", "state": "state", "live": "live", "capacity_bytes": "capacity", "used_bytes": "used",
    "reserved_bytes": "reserved", "evictable_bytes": "could go", "url": "url",
}  # fmt: skip
#: paths whose reason is printed one by one; the rest is counted
KEPT_SHOWN_MAX = 10


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Show the cache servers, or drop every safe, unpinned replica at or below paths from the disk.",
        "capstan cache drop --wait /exp/run7",
    )
    parser.add_argument("verb", nargs="?", choices=["show", "drop"], default="show", help="default: show")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="drop: what to drop")
    parser.add_argument("--wait", action="store_true", help="drop: first wait until everything there is safe")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "drop" and not parsed.paths:
        parser.error("drop needs a PATH")
    return guarded(lambda: _drop(parsed) if parsed.verb == "drop" else _show(parsed), as_json=parsed.json)


def _show(parsed: argparse.Namespace) -> None:
    rows = ask(lambda session: session.operators.items("cache"))
    print_json({"items": rows}) if parsed.json else print_table("cache servers", rows, COLUMNS)


def _drop(parsed: argparse.Namespace) -> None:
    answer = ask(lambda session: session.operators.drop(parsed.paths, wait=parsed.wait))
    if parsed.json:
        print_json(answer)
        return
    print(f"{counted(answer.dropped, 'file')} dropped, {show_bytes(answer.bytes)}")
    for why, count in answer.kept_count.items():
        print(f"{count} kept: {why}")
    for kept in answer.kept[:KEPT_SHOWN_MAX]:
        print(f"  {kept.path}: {kept.why}")

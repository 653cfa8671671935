"""`capstan queue`: drives, mounts, and what waits for them; `capstan queue retry` puts held work back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table
from catalog.units import show_about, show_seconds

TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "drives": (
        "drives",
        {
            "name": "drive", "library": "library", "state": "state", "volume": "volume", "doing": "doing",
            "reason": "reason",
        },
    ),
    "mounts": (
        "mounts",
        {
            "drive": "drive", "volume": "volume", "purpose": "for", "state": "state", "files": "files",
            "bytes": "bytes", "age_seconds": "since", "why": "why",
        },
    ),
    "recalls": (
        "recalls, by volume",
        {
            "volume": "volume", "files": "files", "bytes": "bytes", "oldest_seconds": "oldest",
            "expected": "expected in", "why": "why not yet",
        },
    ),
    "archives": (
        "archives, by pool",
        {
            "pool": "pool", "files": "files", "bytes": "bytes", "oldest_seconds": "oldest", "held": "held",
            "expected": "expected in", "why": "why not yet",
        },
    ),
    "requests": (
        "stage requests",
        {"id": "request", "owner": "owner", "state": "state", "items": "files", "items_live": "waiting"},
    ),
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(command, "Show drives, mounts and queues, or put held work back.", "capstan queue --json")
    add_json(parser)
    parser.add_argument("verb", nargs="?", choices=["show", "retry"], default="show", help="default: show")
    parser.add_argument("--kind", choices=["archives", "recalls"], default="archives", help="what to retry")
    parser.add_argument("--reason", help="why; it goes to the audit log")
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "retry" and not parsed.reason:
        parser.error("retry needs a --reason")

    def show() -> None:
        if parsed.verb == "retry":
            _print_answer(
                ask(lambda session: session.operators.retry_held(parsed.kind, reason=parsed.reason)), parsed.json
            )
            return
        view = msgspec.to_builtins(ask(lambda session: session.operators.queue()))
        if parsed.json:
            print_json(view)
        else:
            _print_view(view)

    return guarded(show, as_json=parsed.json)


def _print_answer(answer: Any, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print(", ".join(f"{key} {value}" for key, value in (answer or {"done": "yes"}).items()))


def _print_view(view: dict[str, Any]) -> None:
    mounted = {mount["drive"]: mount for mount in view["mounts"]}
    for drive in view["drives"]:
        mount = mounted.get(drive["name"])
        drive |= {"volume": mount["volume"], "doing": mount["state"]} if mount else {"doing": "idle"}
    for waiting in (*view["recalls"], *view["archives"]):
        if waiting.get("expected_seconds") is not None:
            waiting["expected"] = show_about(waiting["expected_seconds"])
    for key, (title, columns) in TABLES.items():
        rows = view.get(key, [])
        used = {
            name: heading for name, heading in columns.items() if any(row.get(name) not in (None, "") for row in rows)
        }
        print_table(title, rows, used or columns)
    oldest = view.get("oldest_unsafe_seconds")
    print("every file is safe" if oldest is None else f"the oldest file not yet safe is {show_seconds(oldest)} old")

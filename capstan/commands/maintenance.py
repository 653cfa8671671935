"""`capstan maintenance`: verifies, repacks, labels and audits that are under way; end one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table

COLUMNS = {
    "id": "maintenance", "kind": "kind", "key": "of", "state": "state", "progress": "progress", "errors": "errors",
    "who": "by", "created_at": "since", "note": "note", "reason": "reason",
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Long work on media that goes on across restarts: verifies, repacks and labels of volumes, audits of storage "
        "classes. `capstan volume` and `capstan audit` begin it.",
        'capstan maintenance cancel 12 --reason "drives are needed"',
    )
    parser.add_argument("verb", nargs="?", choices=["ls", "list", "cancel"], default="ls", help="default: ls")
    parser.add_argument("id", nargs="?", type=int, help="cancel: its number")
    parser.add_argument("--all", action="store_true", help="ls: also what has ended")
    parser.add_argument("--reason", help="cancel: why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "cancel" and (parsed.id is None or not parsed.reason):
        parser.error("cancel needs a number and a --reason")
    return guarded(lambda: _carry_out(parsed), as_json=parsed.json)


def _carry_out(parsed: argparse.Namespace) -> None:
    if parsed.verb == "cancel":
        answer = ask(lambda session: session.operators.cancel_maintenance(parsed.id, reason=parsed.reason))
        print_json(answer) if parsed.json else print(f"{answer['kind']} of {answer['key']} is cancelled")
        return
    rows = ask(lambda session: session.operators.maintenance(everything=parsed.all))
    print_json({"items": rows}) if parsed.json else print_table("maintenance", with_progress(rows), COLUMNS)


def with_progress(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for a table: how far each is, in files."""
    return [
        {**row, "progress": f"{row['done_files']:,} of {row['files']:,} files" if row["files"] else ""} for row in rows
    ]

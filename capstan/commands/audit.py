"""`capstan audit run`: look for files that lack a copy, and have it made."""

from __future__ import annotations

from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Look through all files of storage classes for copies that are missing, and have them made: from disk at once, "
        "else after a recall of another copy. It is done by itself each day; `capstan maintenance` shows how far.",
        'capstan audit run two --reason "after the fire drill"',
    )
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="default: every storage class")
    parser.add_argument("--reason", required=True, help="why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)

    def carry_out() -> None:
        rows = ask(lambda session: session.operators.audit(parsed.classes, reason=parsed.reason))
        if parsed.json:
            print_json({"items": rows})
            return
        for row in rows:
            state = "is begun" if row["began"] else "is under way already"
            print(f"the audit of storage class {row['storage_class']} {state} (maintenance {row['maintenance']})")

    return guarded(carry_out, as_json=parsed.json)

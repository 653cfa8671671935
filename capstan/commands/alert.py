"""`capstan alert`: what libraries and drives say of themselves, until somebody has seen to it."""

from __future__ import annotations

from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table
from capstan.commands.media import ALERTS


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Warnings of libraries and drives that nobody has cleared. Clear one when you have seen to it; what is said "
        "again after that is a new one.",
        "capstan alert clear 3",
    )
    parser.add_argument("verb", nargs="?", choices=["ls", "list", "clear"], default="ls", help="default: ls")
    parser.add_argument("ids", nargs="*", type=int, metavar="N", help="clear: their numbers")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "clear" and not parsed.ids:
        parser.error("clear needs the number of an alert")

    def carry_out() -> None:
        if parsed.verb == "clear":
            for number in parsed.ids:
                ask(lambda session, number=number: session.operators.clear_alert(number))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            numbers = ", ".join(map(str, parsed.ids))
            print_json({"cleared": parsed.ids}) if parsed.json else print(f"alert {numbers} cleared")
            return
        rows = ask(lambda session: session.operators.items("alerts"))
        print_json({"items": rows}) if parsed.json else print_table("alerts", rows, ALERTS)

    return guarded(carry_out, as_json=parsed.json)

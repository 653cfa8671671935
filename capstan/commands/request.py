"""`capstan request`: stage requests; an operator may cancel anybody's, with a reason."""

from __future__ import annotations

from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_fields, print_json, print_table

COLUMNS = {
    "id": "request", "owner": "owner", "origin": "origin", "state": "state", "items": "files", "items_live": "waiting",
    "created_at": "created",
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command, "List, show or cancel stage requests.", 'capstan request cancel 17 --reason "wrong run"'
    )
    parser.add_argument("verb", nargs="?", choices=["list", "show", "cancel"], default="list", help="default: list")
    parser.add_argument("id", nargs="?", help="of the request")
    parser.add_argument("--reason", help="why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb != "list" and parsed.id is None:
        parser.error(f"{parsed.verb} needs the number of a request")
    if parsed.verb == "cancel" and not parsed.reason:
        parser.error("cancel needs a --reason")

    def carry_out() -> None:
        if parsed.verb == "list":
            rows = ask(lambda session: session.operators.items("requests"))
            print_json({"items": rows}) if parsed.json else print_table("stage requests", rows, COLUMNS)
            return
        if parsed.verb == "show":
            row = ask(lambda session: session.operators.item("requests", parsed.id))
            print_json(row) if parsed.json else print_fields(row)
            return
        answer = ask(lambda session: session.operators.cancel_request(parsed.id, reason=parsed.reason))
        print_json(answer) if parsed.json else print(f"request {parsed.id} is cancelled")

    return guarded(carry_out, as_json=parsed.json)

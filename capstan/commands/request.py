"""`capstan request`: stage requests; an operator may cancel anybody's, with a reason."""

from __future__ import annotations

from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table

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

    def carry_out() -> None:
        base = "/api/capstan/v1/requests"
        if parsed.verb == "list":
            rows = ask("GET", base)["items"]
            print_json({"items": rows}) if parsed.json else print_table("stage requests", rows, COLUMNS)
            return
        if parsed.verb == "show":
            answer = ask("GET", f"{base}/{parsed.id}")
        else:
            answer = ask("POST", f"{base}/{parsed.id}/cancel", {"reason": parsed.reason or ""})
        if parsed.json:
            print_json(answer)
        elif parsed.verb == "cancel":
            print(f"request {parsed.id} is cancelled")
        else:
            for key, value in answer.items():
                print(f"{key.replace('_', ' ')}: {'-' if value in (None, '') else value}")

    return guarded(carry_out)

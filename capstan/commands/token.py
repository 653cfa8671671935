"""`capstan token`: show the recorded token; list, make and revoke others."""

from __future__ import annotations

from collections.abc import Sequence

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table
from catalog.errors import BadRequest, NotFound
from client.cli.common import seconds_argument

COLUMNS = {
    "token_id": "token", "owner": "owner", "groups": "groups", "label": "label", "grants": "grants",
    "created_at": "made", "expires_at": "expires",
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Print the token recorded by `capstan up` on this machine; list, make or revoke tokens.",
        "capstan token make --owner ana --group cms --grant read:/exp --grant stage:/exp --lifetime 30d",
    )
    parser.add_argument("verb", choices=["show", "ls", "make", "revoke"])
    parser.add_argument("id", nargs="?", type=int, help="revoke: the token's number")
    parser.add_argument("--owner", help="make: whose it is")
    parser.add_argument("--group", action="append", default=[], help="make: a group; may be repeated")
    parser.add_argument("--label", default="", help="make: what it is for")
    parser.add_argument(
        "--grant", action="append", default=[], metavar="ACTION:PREFIX",
        help="make: read, create, modify, stage, poll or admin, on a path and all below it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--lifetime", type=seconds_argument, metavar="TIME", help="make: such as 12h or 30d; default: for ever"
    )
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "make" and not (parsed.owner and parsed.grant):
        parser.error("make needs --owner and at least one --grant")
    if parsed.verb == "revoke" and not parsed.id:
        parser.error("revoke needs the token's number")

    def carry_out() -> None:
        if parsed.verb == "show":
            from client import recorded

            found = recorded.read()
            if found is None or not found.secret():
                raise NotFound(what="a recorded token (made by `capstan up` on this machine, for this user)")
            print_json({"token": found.secret(), "url": found.url}) if parsed.json else print(found.secret())
        elif parsed.verb == "ls":
            rows = ask(lambda session: session.operators.items("tokens"))
            for row in rows if not parsed.json else []:
                row["grants"] = [":".join(grant) for grant in row["grants"]]
                row["expires_at"] = row["expires_at"] or "never"
            print_json({"items": rows}) if parsed.json else print_table("tokens", rows, COLUMNS)
        elif parsed.verb == "make":
            made = ask(
                lambda session: session.operators.make_token(
                    label=parsed.label or f"made for {parsed.owner}",
                    owner=parsed.owner,
                    groups=parsed.group or [parsed.owner],
                    grants=[_grant(text) for text in parsed.grant],
                    lifetime_seconds=parsed.lifetime,
                )
            )
            print_json(made) if parsed.json else print(made.token)
        else:
            ask(lambda session: session.operators.revoke_token(parsed.id))
            print_json({"revoked": parsed.id}) if parsed.json else print(f"token {parsed.id} is revoked")

    return guarded(carry_out, as_json=parsed.json)


def _grant(text: str) -> tuple[str, str]:
    action, colon, prefix = text.partition(":")
    if not colon:
        raise BadRequest(why=f"the grant {text!r} is not ACTION:PREFIX, such as read:/exp")
    return action, prefix

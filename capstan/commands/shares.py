"""`capstan usage|share|rule`: who has used the drives, and who gets them: shares, limits, and weights of requests."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from capstan.commands.common import add_json, add_reason, add_verb, ask, guarded, parser_for, print_json, print_table
from catalog.units import parse_seconds

KEYS = ("user", "group", "day")
_USED = {
    "mounts": "mounts", "drive_seconds": "drive time", "files_read": "files read", "read_bytes": "read",
    "files_written": "files written", "written_bytes": "written",
}  # fmt: skip
_SHARE = {
    "group": "group", "owner": "user", "weight": "weight", "drive_seconds": "drive time",
    "reading_drives": "reading drives", "writing_drives": "writing drives",
}  # fmt: skip
_RULE = {
    "place": "rule", "weight": "weight", "activity": "activity", "group": "group", "owner": "user",
    "priorities": "priorities",
}  # fmt: skip
_ALL_PRIORITIES = (-32768, 32767)


def run(command: str, words: Sequence[str]) -> int:
    if command == "usage":
        return _usage(words)
    parser, carry_out = _share_parser() if command == "share" else _rule_parser()
    add_json(parser)
    parsed = parser.parse_args(words)
    if parsed.verb == "set" and not _changes(parsed):
        parser.error("say what is to change: --weight, --drive-time, --reading-drives, --writing-drives")
    return guarded(lambda: carry_out(parsed), as_json=parsed.json)


# ---------------------------------------------------------------------- usage


def _usage(words: Sequence[str]) -> int:
    parser = parser_for(
        "usage",
        "Mounts, drives' time, files and bytes. A mount that served several users is parted among them by their bytes; "
        "what served nobody (labels, verifies, mounts that failed) is capstan's own. Without an administrator's rights "
        "one sees one's own.",
        "capstan usage --by group --since 30d",
    )
    parser.add_argument("--by", choices=KEYS, default="user", help="one line for each (default: %(default)s)")
    parser.add_argument(
        "--since", type=_seconds, default=30 * 86400.0, metavar="TIME",
        help="of the last so many days, in whole days of UTC (default: 30d)",
    )  # fmt: skip
    add_json(parser)
    parsed = parser.parse_args(words)

    def carry_out() -> None:
        rows = ask(lambda session: session.operators.usage(by=parsed.by, since_seconds=parsed.since))
        if parsed.json:
            print_json({"by": parsed.by, "items": rows})
            return
        keys = {"user": {"owner": "user", "group": "group"}, "group": {"group": "group"}, "day": {"day": "day"}}
        shown = [
            {
                **row,
                "mounts": _parts(row["mounts"]),
                "read_bytes": row["bytes_read"],
                "written_bytes": row["bytes_written"],
            }
            for row in rows
        ]
        print_table("usage", shown, {**keys[parsed.by], **_USED})

    return guarded(carry_out, as_json=parsed.json)


def _parts(mounts: float) -> str:
    """Mounts are parted among those whom they served: as many as whole ones are told as such."""
    return f"{mounts:,.2f}".rstrip("0").rstrip(".")


# ---------------------------------------------------------------------- shares


def _share_parser() -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], None]]:
    parser = parser_for(
        "share",
        "What groups have of the drives, and users inside their group. Who has something to read, or to write, shares "
        "all the drives' time by these weights; who is not listed has the weight 1. No drive stays idle for one who "
        "has nothing to do.",
        'capstan share set cms --weight 3 --reading-drives 6 --reason "agreed in May"',
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    add_verb(verbs, "share", "list", "all of them (the default)", aliases=["ls"])
    made = add_verb(verbs, "share", "set", "make or change one", 'cms --user ann --weight 0.5 --reason "tests"')
    made.add_argument("group", metavar="GROUP")
    made.add_argument("--user", default="", metavar="USER", help="his share inside the group")
    made.add_argument("--weight", type=float, metavar="N", help="against the others' weights")
    made.add_argument(
        "--drive-time", type=_seconds_or_none, metavar="TIME", default=argparse.SUPPRESS,
        help="what was used lately (half of it is forgotten each day) and is more than this lowers the share; `none`",
    )  # fmt: skip
    for way, doing in (("reading", "read"), ("writing", "write")):
        made.add_argument(
            f"--{way}-drives", type=_number_or_all, metavar="N", default=argparse.SUPPRESS,
            help=f"of each library, so many drives at most {doing} for the group at once; `all`",
        )  # fmt: skip
    add_reason(made)
    gone = add_verb(verbs, "share", "remove", "back to the weight 1, no bounds", 'cms --reason "as all others"')
    gone.add_argument("group", metavar="GROUP")
    gone.add_argument("--user", default="", metavar="USER")
    add_reason(gone)
    return parser, _carry_out_share


def _changes(parsed: argparse.Namespace) -> dict[str, Any]:
    """The fields of a share that were given."""
    names = {"drive_time": "drive_seconds", "reading_drives": "reading_drives", "writing_drives": "writing_drives"}
    given = {field: getattr(parsed, name) for name, field in names.items() if hasattr(parsed, name)}
    return given if getattr(parsed, "weight", None) is None else {"weight": parsed.weight, **given}


def _carry_out_share(parsed: argparse.Namespace) -> None:
    if parsed.verb == "set":
        answer = ask(
            lambda session: session.operators.set_share(
                parsed.group, parsed.user, changes=_changes(parsed), reason=parsed.reason
            )
        )
        _tell(parsed, answer, f"the share of {_whose(parsed)} is changed")
    elif parsed.verb == "remove":
        answer = ask(lambda session: session.operators.remove_share(parsed.group, parsed.user, reason=parsed.reason))
        _tell(parsed, answer, f"{_whose(parsed)} is as all others")
    else:
        rows = ask(lambda session: session.operators.items("shares"))
        print_json({"items": rows}) if parsed.json else print_table("shares", rows, _SHARE)


def _whose(parsed: argparse.Namespace) -> str:
    return f"{parsed.user} in {parsed.group}" if parsed.user else str(parsed.group)


# ---------------------------------------------------------------------- rules


def _rule_parser() -> tuple[argparse.ArgumentParser, Callable[[argparse.Namespace], None]]:
    parser = parser_for(
        "rule",
        "Which requests count more than others. The first rule that matches a request gives its weight; without one it "
        "is 1. Patterns are as in a shell: t0*, [ab]*.",
        'capstan rule add --activity "t0*" --weight 5 --reason "tier 0 comes first"',
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    add_verb(verbs, "rule", "list", "all of them, in order (the default)", aliases=["ls"])
    made = add_verb(verbs, "rule", "add", "a new one", '--group guests --weight 0.2 --before 1 --reason "guests"')
    made.add_argument("--weight", type=float, required=True, metavar="N")
    made.add_argument("--activity", default="*", metavar="PATTERN")
    made.add_argument("--group", default="*", metavar="PATTERN")
    made.add_argument("--user", default="*", metavar="PATTERN")
    made.add_argument("--priority-min", type=int, default=_ALL_PRIORITIES[0], metavar="N")
    made.add_argument("--priority-max", type=int, default=_ALL_PRIORITIES[1], metavar="N")
    made.add_argument("--before", type=int, metavar="RULE", help="tried before this one; else last")
    add_reason(made)
    gone = add_verb(verbs, "rule", "remove", "take one away; those behind it move up", '2 --reason "over"')
    gone.add_argument("place", type=int, metavar="RULE")
    add_reason(gone)
    return parser, _carry_out_rule


def _carry_out_rule(parsed: argparse.Namespace) -> None:
    if parsed.verb == "add":
        answer = ask(
            lambda session: session.operators.add_rule(
                reason=parsed.reason, weight=parsed.weight, before=parsed.before, activity=parsed.activity,
                group=parsed.group, owner=parsed.user, priority_min=parsed.priority_min,
                priority_max=parsed.priority_max,
            )
        )  # fmt: skip
        _tell(parsed, answer, f"rule {answer['place']} is added")
    elif parsed.verb == "remove":
        answer = ask(lambda session: session.operators.remove_rule(parsed.place, reason=parsed.reason))
        _tell(parsed, answer, f"rule {parsed.place} is removed")
    else:
        rows = ask(lambda session: session.operators.items("rules"))
        shown = [{**row, "priorities": _priorities(row["priority_min"], row["priority_max"])} for row in rows]
        print_json({"items": rows}) if parsed.json else print_table("rules", shown, _RULE)


def _priorities(low: int, high: int) -> str:
    if (low, high) == _ALL_PRIORITIES:
        return "all"
    if high == _ALL_PRIORITIES[1]:
        return f"from {low}"
    return f"up to {high}" if low == _ALL_PRIORITIES[0] else f"{low} to {high}"


def _tell(parsed: argparse.Namespace, answer: Any, sentence: str) -> None:
    print_json(answer) if parsed.json else print(sentence)


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _seconds_or_none(text: str) -> float | None:
    return None if text == "none" else _seconds(text)


def _number_or_all(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `all`")
    return int(text)

"""`capstan drive|library`: list and show them; take one down or up, or say what a drive is, with a reason."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from capstan.commands.common import (
    add_json,
    add_reason,
    add_verb,
    ask,
    guarded,
    parser_for,
    print_fields,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from client.session import Session

#: command -> (path below /api/capstan/v1, columns of its table)
NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "drive": (
        "drives",
        {"name": "drive", "library": "library", "state": "state", "attached": "attached", "kind": "model",
         "tapeserver": "tape server", "reason": "reason"},
    ),
    "library": (
        "libraries",
        {"name": "library", "kind": "kind", "state": "state", "since": "since", "reason": "reason"},
    ),
}  # fmt: skip
FAILURES = {
    "volume": "volume", "drive": "drive", "failures": "failures", "kinds": "at", "last_at": "last",
    "expires_at": "counts until", "why": "why",
}  # fmt: skip
ALERTS = {
    "id": "alert", "at": "since", "severity": "severity", "library": "library", "drive": "drive", "volume": "volume",
    "code": "code", "text": "text",
}  # fmt: skip
_EXAMPLES = {"drive": ("east-0", "read errors"), "library": ("west", "robot service")}
_HELP = {
    ("drive", "up"): "use it again; what failed in it before counts no more",
    ("library", "up"): "use it again",
    ("drive", "down"): "use it no more; what it does ends, and the work goes elsewhere",
    ("library", "down"): "use it no more; what it does ends, and the work goes elsewhere",
}


def run(command: str, words: Sequence[str]) -> int:
    name, reason = _EXAMPLES[command]
    parser = parser_for(
        command,
        f"List, show, or change the state of, a {command}. A change takes effect within a second.",
        f'capstan {command} down {name} --reason "{reason}"',
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    add_verb(verbs, command, "list", "all of them (the default)", aliases=["ls"])
    more = ", with its failures and alerts" if command == "drive" else ""
    add_verb(verbs, command, "show", f"one, in full{more}", name).add_argument("name", metavar="NAME")
    for verb in ("up", "down"):
        one = add_verb(verbs, command, verb, _HELP[command, verb], f'{name} --reason "{reason}"')
        one.add_argument("names", nargs="+", metavar="NAME")
        add_reason(one)
    if command == "drive":
        what = "say what drives are, where the library does not: which media fit them; auto takes that back"
        one = add_verb(verbs, command, "model", what, f'LTO-9 {name} --reason "replaced"')
        one.add_argument("kind", metavar="MODEL")
        one.add_argument("names", nargs="+", metavar="NAME")
        add_reason(one)
    add_json(parser)
    parsed = parser.parse_args(words)
    return guarded(lambda: _carry_out(command, parsed), as_json=parsed.json)


def _carry_out(command: str, parsed: argparse.Namespace) -> None:
    noun, columns = NOUNS[command]
    verb = parsed.verb or "list"
    if verb in ("list", "ls"):
        rows = ask(lambda session: session.operators.items(noun))
        shown = [{**row, "kind": row.get("model") or row.get("reported_model")} for row in rows]
        print_json({"items": rows}) if parsed.json else print_table(noun, shown, columns)
    elif verb == "show":
        row = ask(lambda session: session.operators.item(noun, parsed.name))
        if parsed.json:
            print_json(row)
            return
        print_fields({key: value for key, value in row.items() if key not in ("failures", "alerts", "mount")})
        print_belongings(row)
    elif verb == "model":
        set_kinds("drives", parsed)
    else:
        _set_states(command, parsed)


def set_kinds(noun: str, parsed: argparse.Namespace) -> None:
    """Say what these drives, or volumes, are: as for a state."""

    async def one(session: Session, name: str) -> dict[str, Any]:
        return await session.operators.set_kind(noun, name, parsed.kind, reason=parsed.reason)

    def told(name: str, answer: dict[str, Any]) -> str:
        return f"{noun.removesuffix('s')} {name} is {answer['kind'] or 'what its library says'}"

    one_by_one(parsed, one, told)


def _set_states(command: str, parsed: argparse.Namespace) -> None:
    noun, _ = NOUNS[command]

    async def one(session: Session, name: str) -> dict[str, Any]:
        return await session.operators.set_state(noun, name, parsed.verb, reason=parsed.reason)

    one_by_one(parsed, one, lambda name, answer: f"{command} {name} is {answer.get('state', parsed.verb)}")


def one_by_one(
    parsed: argparse.Namespace,
    change: Callable[[Session, str], Awaitable[dict[str, Any]]],
    told: Callable[[str, dict[str, Any]], str],
) -> None:
    """One after the other, each said when it is done: the first that is refused ends it."""
    answers: list[dict[str, Any]] = []

    async def each(session: Session) -> None:
        for name in parsed.names:
            answer = await change(session, name)
            answers.append(answer)
            if not parsed.json:
                print(told(name, answer))

    ask(each)
    if parsed.json:
        print_json(answers[0] if len(answers) == 1 else {"items": answers})


def print_belongings(row: dict[str, Any]) -> None:
    """What belongs to a drive or volume: its mount, and the tables that are not empty."""
    mount = row.get("mount")
    if mount:
        place = mount["drive"] if "vid" in row else mount["volume"]
        print(f"mounted: {place}, for {mount['purpose']}, {mount['state']}")
    for key, columns in (("failures", FAILURES), ("alerts", ALERTS)):
        if row.get(key):
            print_table(key, row[key], columns)

"""`capstan drive|library|volume|pool|storage-class`: list them; change a state, with a reason."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from capstan.commands.common import add_json, ask, guarded, parser_for, print_fields, print_json, print_table

if TYPE_CHECKING:
    from client.session import Session

#: command -> (path below /api/capstan/v1, columns of its table)
NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "drive": (
        "drives",
        {"name": "drive", "library": "library", "state": "state", "attached": "attached", "tapeserver": "tape server",
         "reason": "reason"},
    ),
    "library": (
        "libraries",
        {"name": "library", "kind": "kind", "state": "state", "since": "since", "reason": "reason"},
    ),
    "volume": (
        "volumes",
        {"vid": "volume", "library": "library", "pool": "pool", "state": "state", "generation": "generation",
         "tape_files": "tape files", "written_bytes": "written", "capacity_bytes": "capacity", "reason": "reason"},
    ),
    "pool": ("pools", {"name": "pool", "library": "library"}),
    "storage-class": (
        "storage-classes", {"name": "class", "copies": "copies", "pools": "pools", "is_default": "default"},
    ),
}  # fmt: skip
#: command -> verb -> state to ask for
VERBS: dict[str, dict[str, str]] = {
    "drive": {"up": "up", "down": "down"},
    "library": {"up": "up", "down": "down"},
    "volume": {"enable": "enabled", "disable": "disabled"},
}


def run(command: str, words: Sequence[str]) -> int:
    example = {
        "drive": 'capstan drive down east-0 --reason "read errors"',
        "library": 'capstan library down west --reason "robot service"',
        "volume": 'capstan volume disable E00007 --reason "write errors"',
    }.get(command, f"capstan {command} list")
    parser = parser_for(command, _describe(command), example)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _add_verb(verbs, "list", "all of them (the default)")
    if command == "volume":
        _add_verb(verbs, "show", "one, in full").add_argument("name", metavar="VID")
        _add_verb(verbs, "files", "what is on it, by position").add_argument("name", metavar="VID")
    for verb, state in VERBS.get(command, {}).items():
        one = _add_verb(verbs, verb, f"make it {state}")
        one.add_argument("name", metavar="NAME")
        one.add_argument("--reason", required=True, help="why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_args(words)
    return guarded(lambda: _carry_out(command, parsed), as_json=parsed.json)


def _describe(command: str) -> str:
    if command in VERBS:
        return f"List, or change the state of, a {command}. A change takes effect within a second."
    return f"List each {command}."


def _add_verb(verbs: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=help_text, description=help_text)
    # SUPPRESS: a default here would overwrite a --json given before the verb.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    return parser


def _carry_out(command: str, parsed: argparse.Namespace) -> None:
    noun, columns = NOUNS[command]
    verb = parsed.verb or "list"
    if verb == "list":
        rows = ask(lambda session: session.operators.items(noun))
        print_json({"items": rows}) if parsed.json else print_table(noun.replace("-", " "), rows, columns)
    elif verb == "show":
        row = ask(lambda session: session.operators.item(noun, parsed.name))
        print_json(row) if parsed.json else print_fields(row)
    elif verb == "files":
        _print_files(parsed)
    else:
        state = VERBS[command][verb]
        answer = ask(lambda session: session.operators.set_state(noun, parsed.name, state, reason=parsed.reason))
        print_json(answer) if parsed.json else print(f"{command} {parsed.name} is {answer.get('state', state)}")


def _print_files(parsed: argparse.Namespace) -> None:
    async def all_files(session: Session) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(file) async for file in session.operators.volume_files(parsed.name)]

    files = ask(all_files)
    if parsed.json:
        print_json({"items": files})
    else:
        columns = {
            "first_block": "block",
            "byte_offset": "offset",
            "size": "size",
            "on_disk": "on disk",
            "path": "path",
        }
        print_table(f"files on {parsed.name}", files, columns)

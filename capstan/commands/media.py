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
#: command -> a name and a reason for its examples
_EXAMPLES = {
    "drive": ("east-0", "read errors"), "library": ("west", "robot service"), "volume": ("E00007", "write errors"),
}  # fmt: skip
_HELP = {
    "up": "use it again",
    "down": "use it no more; what it does ends, and the work goes elsewhere",
    "enable": "mount it again",
    "disable": "mount it no more; other copies are read",
}


def run(command: str, words: Sequence[str]) -> int:
    example = f"capstan {command} list"
    if command in VERBS:
        name, reason = _EXAMPLES[command]
        example = f'capstan {command} {list(VERBS[command])[-1]} {name} --reason "{reason}"'
    parser = parser_for(command, _describe(command), example)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _add_verb(verbs, command, "list", "all of them (the default)")
    if command == "volume":
        _add_verb(verbs, command, "show", "one, in full", "E00001").add_argument("name", metavar="VID")
        _add_verb(verbs, command, "files", "what is on it, by position", "E00001").add_argument("name", metavar="VID")
    for verb in VERBS.get(command, {}):
        name, reason = _EXAMPLES[command]
        one = _add_verb(verbs, command, verb, _HELP[verb], f'{name} --reason "{reason}"')
        one.add_argument("name", metavar="NAME")
        one.add_argument("--reason", required=True, help="why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_args(words)
    return guarded(lambda: _carry_out(command, parsed), as_json=parsed.json)


def _describe(command: str) -> str:
    if command in VERBS:
        return f"List, or change the state of, a {command}. A change takes effect within a second."
    return f"List all {NOUNS[command][0].replace('-', ' ')}."


def _add_verb(verbs: Any, command: str, name: str, what: str, example: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=what,
        description=f"capstan {command} {name}: {what}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {f'capstan {command} {name} {example}'.rstrip()}",
    )
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

"""`capstan pool|storage-class`: list, make and set them; a changed class makes the copies that are missing then."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from capstan.commands.common import add_json, add_reason, add_verb, ask, guarded, parser_for, print_json, print_table

NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "pool": (
        "pools",
        {"name": "pool", "library": "library", "volumes": "volumes", "volumes_open_max": "filled at once",
         "written_bytes": "written", "capacity_bytes": "capacity"},
    ),
    "storage-class": (
        "storage-classes",
        {"name": "class", "copies": "copies", "pools": "pools", "evict_degraded": "evict degraded",
         "is_default": "default"},
    ),
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    if command == "pool":
        example = 'capstan pool set east --volumes-open 4 --reason "four drives"'
    else:
        example = 'capstan storage-class set one --copies 2 --pools east,west --reason "second site"'
    parser = parser_for(command, f"List, make or change {NOUNS[command][0].replace('-', ' ')}.", example)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    add_verb(verbs, command, "list", "all of them (the default)", aliases=["ls"])
    _add_pool(verbs) if command == "pool" else _add_storage_class(verbs)
    add_json(parser)
    parsed = parser.parse_args(words)
    return guarded(lambda: _carry_out(command, parsed), as_json=parsed.json)


def _add_pool(verbs: Any) -> None:
    made = add_verb(verbs, "pool", "create", "a new one", "raw-east --library east --volumes-open 4")
    made.add_argument("name", metavar="NAME")
    made.add_argument("--library", required=True, help="whose volumes it takes")
    made.add_argument("--volumes-open", type=int, metavar="N", help="filled at once; else as the tape server says")
    changed = add_verb(verbs, "pool", "set", "change one", 'east --volumes-open 4 --reason "four drives"')
    changed.add_argument("name", metavar="NAME")
    changed.add_argument(
        "--volumes-open", type=_number_or_default, required=True, metavar="N",
        help="so many volumes are filled at once; `default`: as the tape server says",
    )  # fmt: skip
    add_reason(changed)


def _add_storage_class(verbs: Any) -> None:
    command = "storage-class"
    made = add_verb(verbs, command, "create", "a new one", "three --copies 2 --pools east,west")
    made.add_argument("name", metavar="NAME")
    made.add_argument("--copies", type=int, required=True, metavar="N", help="each in a library of its own")
    made.add_argument("--pools", type=_names, required=True, metavar="A,B", help="in order of preference")
    changed = add_verb(
        verbs, command, "set", "change one; copies that are missing then are made",
        'one --copies 2 --pools east,west --reason "second site"',
    )  # fmt: skip
    changed.add_argument("name", metavar="NAME")
    changed.add_argument("--copies", type=int, metavar="N", help="each in a library of its own")
    changed.add_argument("--pools", type=_names, metavar="A,B", help="in order of preference")
    add_reason(changed)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one pool")
    return names


def _number_or_default(text: str) -> int:
    """0 for `default`: an option's value cannot be None when it is required."""
    if text == "default":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor `default`")
    return int(text)


def _carry_out(command: str, parsed: argparse.Namespace) -> None:
    noun, columns = NOUNS[command]
    verb = parsed.verb or "list"
    if verb in ("list", "ls"):
        rows = ask(lambda session: session.operators.items(noun))
        print_json({"items": rows}) if parsed.json else print_table(noun.replace("-", " "), rows, columns)
        return
    answer = _created(command, parsed) if verb == "create" else _set(command, parsed)
    if parsed.json:
        print_json(answer)
        return
    more = (
        f"; the copies that are missing are made (maintenance {answer['maintenance']})"
        if answer.get("maintenance")
        else ""
    )
    print(f"{command} {parsed.name} is {'made' if verb == 'create' else 'changed'}{more}")


def _created(command: str, parsed: argparse.Namespace) -> dict[str, Any]:
    if command == "pool":
        ask(
            lambda session: session.operators.create_pool(
                parsed.name, library=parsed.library, volumes_open_max=parsed.volumes_open
            )
        )
    else:
        ask(
            lambda session: session.operators.create_storage_class(
                parsed.name, copies=parsed.copies, pools=parsed.pools
            )
        )
    return {"name": parsed.name}


def _set(command: str, parsed: argparse.Namespace) -> dict[str, Any]:
    if command == "pool":
        return ask(
            lambda session: session.operators.change_pool(
                parsed.name, volumes_open_max=parsed.volumes_open or None, reason=parsed.reason
            )
        )
    return ask(
        lambda session: session.operators.change_storage_class(
            parsed.name, reason=parsed.reason, copies=parsed.copies, pools=parsed.pools
        )
    )

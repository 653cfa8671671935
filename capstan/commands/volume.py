"""`capstan volume`: list and show volumes, and everything that a person may want of one, with a reason."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

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
from capstan.commands.maintenance import COLUMNS as MAINTENANCE
from capstan.commands.maintenance import with_progress
from capstan.commands.media import one_by_one, print_belongings, set_kinds
from catalog.units import show_bytes
from client.cli.common import counted

if TYPE_CHECKING:
    from client.session import Session

COLUMNS = {
    "vid": "volume", "library": "library", "pool": "pool", "state": "state", "generation": "generation",
    "tape_files": "tape files", "written_bytes": "written", "capacity_bytes": "capacity", "reason": "reason",
}  # fmt: skip
FILES = {"first_block": "block", "byte_offset": "offset", "size": "size", "on_disk": "on disk", "path": "path"}
#: verb -> (what it does, a reason for its example)
VERBS = {
    "label": ("label a blank one now, not when it is written first", "new cartridges"),
    "close": ("write no more on it; what is on it stays in use", "kept as it is"),
    "reopen": ("write on a closed or full one again", "closed by mistake"),
    "disable": ("mount it no more; its copies count, others are read", "write errors"),
    "enable": ("use a disabled or suspect one again; what failed before counts no more", "drive was replaced"),
    "mend": ("its copies that were found broken can be read after all, and count again", "both drives were dirty"),
    "export": ("it leaves the library; its copies count no more", "to the vault"),
    "import": ("an exported one is back: it is read back, and suspect until it is enabled", "from the vault"),
    "broken": ("it cannot be read; what is missing then is made again from other copies", "tape is torn"),
    "now": ("mount it before all others, if anything on it is wanted, and do not collect for it", "run starts today"),
    "verify": ("read back what is on it, in idle drives", "yearly"),
    "repack": ("write everything live on it to other volumes, while users go on", "old cartridge"),
    "reclaim": ("make it blank again, when nothing on it is wanted any more", "repacked"),
    "relabel": ("reclaim it, and label it at once with the next generation", "repacked"),
    "cancel": ("end the verify, repack or label that is under way", "night shift"),
    "remove": ("forget a blank, broken or exported one without any copy", "destroyed"),
}
_DONE = {
    "label": "is to be labelled", "relabel": "is reclaimed and to be labelled", "verify": "is to be verified",
    "repack": "is being repacked", "remove": "is forgotten", "now": "comes first when it is wanted",
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "List volumes, show one, or say what is to become of it. A change takes effect within a second, needs a reason "
        "and is in the audit log.",
        'capstan volume repack E00007 --reason "old cartridge"',
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    add_verb(verbs, command, "list", "all of them (the default)", aliases=["ls"])
    add_verb(verbs, command, "show", "one, in full", "E00007").add_argument("name", metavar="VID")
    add_verb(verbs, command, "files", "what is on it, by position", "E00007").add_argument("name", metavar="VID")
    for verb, (what, reason) in VERBS.items():
        one = add_verb(verbs, command, verb, what, f'E00007 --reason "{reason}"')
        one.add_argument("names", nargs="+", metavar="VID")
        add_reason(one)
        if verb == "export":
            one.add_argument("--force", action="store_true", help="though files are not safe without it")
        if verb in ("label", "relabel"):
            one.add_argument("--force", action="store_true", help="whatever is on the cartridge is overwritten")
        if verb == "verify":
            one.add_argument("--share", type=_share, metavar="PERCENT", help="of its files, drawn at random; else all")
    medium = "say what volumes are, where library and capacity do not: which drives fit them; auto takes that back"
    one = add_verb(verbs, command, "medium", medium, 'LTO-8 E00007 --reason "from the old library"')
    one.add_argument("kind", metavar="MEDIUM")
    one.add_argument("names", nargs="+", metavar="VID")
    add_reason(one)
    add_json(parser)
    parsed = parser.parse_args(words)
    return guarded(lambda: _carry_out(parsed), as_json=parsed.json)


def _share(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 100")
    return percent / 100


def _carry_out(parsed: argparse.Namespace) -> None:
    verb = parsed.verb or "list"
    if verb in ("list", "ls"):
        rows = ask(lambda session: session.operators.items("volumes"))
        print_json({"items": rows}) if parsed.json else print_table("volumes", rows, COLUMNS)
    elif verb == "show":
        row = ask(lambda session: session.operators.item("volumes", parsed.name))
        print_json(row) if parsed.json else _print_volume(row)
    elif verb == "files":
        _print_files(parsed)
    elif verb == "medium":
        set_kinds("volumes", parsed)
    else:
        _change(verb, parsed)


def _change(verb: str, parsed: argparse.Namespace) -> None:
    async def one(session: Session, name: str) -> dict[str, Any]:
        force, share = getattr(parsed, "force", False), getattr(parsed, "share", None)
        return await session.operators.volume(name, verb, reason=parsed.reason, force=force, share=share)

    one_by_one(parsed, one, lambda _, answer: _said(verb, answer))


def _said(verb: str, answer: dict[str, Any]) -> str:
    volume = f"volume {answer['volume']}"
    if verb == "cancel":
        return f"{volume}: {' and '.join(answer['cancelled'])} cancelled; it is {answer['state']}"
    if verb == "reclaim":
        return f"{volume} is blank; {answer['copies']:,} {'copy' if answer['copies'] == 1 else 'copies'} given up"
    if verb == "mend":
        return f"{volume}: copies that count again: {answer['mended']:,}"
    if verb in _DONE:
        number = answer.get("maintenance")
        return f"{volume} {_DONE[verb]}" + (f" (maintenance {number})" if number else "")
    if verb == "import" and "maintenance" in answer:
        return f"{volume} is {answer['state']} and is read back (maintenance {answer['maintenance']}); then enable it"
    return f"{volume} is {answer['state']}"


def _print_volume(row: dict[str, Any]) -> None:
    contents = row["contents"]
    about = "" if contents["complete"] else " at least: it holds more than is counted here"
    filled = f"{show_bytes(row['written_bytes'])} of {show_bytes(row['capacity_bytes'])}, {row['fill']:.1%}"
    index = "none"
    if row["index_block"]:
        index = f"at block {row['index_block']}, tells of {row['indexed_tape_files']} of {row['tape_files']} tape files"
    deleted = f"{counted(contents['deleted_files'], 'file')}, {show_bytes(contents['deleted_bytes'])}"
    extents = f", {counted(contents['dead_extents'], 'broken-off tape file')}" if contents["dead_extents"] else ""
    fields = {
        "volume": row["vid"],
        "library": row["library"],
        "pool": row["pool"],
        "state": row["state"] + (f" ({row['reason']})" if row["reason"] else ""),
        "since": row["since"],
        "by": row["changed_by"],
        "generation": row["generation"],
        "medium": row["medium"] or None,
        "filled": f"{filled}, {counted(row['tape_files'], 'tape file')}",
        "live": f"{counted(contents['live_files'], 'file')}, {show_bytes(contents['live_bytes'])}{about}",
        "in the recycle bin": deleted,
        "dead": f"{show_bytes(contents['dead_bytes'])}{extents}; labels and indexes are in it",
        "index": index,
        "broken copies": contents["broken_copies"] or None,
        "end of data": None if row["end_verified"] else "to be found on the tape before it is written again",
        **{name: row[name] for name in ("labelled_at", "written_at", "read_at", "verified_at", "full_at", "closed_at")},
        "reclaim": row["reclaim"],
    }
    print_fields({name: value for name, value in fields.items() if value is not None})
    print_belongings(row)
    if row["maintenance"]:
        print_table("maintenance", with_progress(row["maintenance"]), MAINTENANCE)


def _print_files(parsed: argparse.Namespace) -> None:
    async def all_files(session: Session) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(file) async for file in session.operators.volume_files(parsed.name)]

    files = ask(all_files)
    print_json({"items": files}) if parsed.json else print_table(f"files on {parsed.name}", files, FILES)

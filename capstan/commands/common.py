"""What the operators' commands share: one call to a door, one way to print. No command's own words are here."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from catalog.units import show_bytes, show_seconds
from client.cli.common import ending, print_bytes

if TYPE_CHECKING:
    from client.session import Session

T = TypeVar("T")
Row = Mapping[str, Any]

#: nothing is folded in a pipe: a long name stays in one line
PIPE_COLUMNS = 10_000


def parser_for(command: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example; every command takes --json."""
    return argparse.ArgumentParser(
        prog=f"capstan {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {example}",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_verb(verbs: Any, command: str, name: str, what: str, example: str = "", *, aliases: Sequence[str] = ()) -> Any:
    """A parser for one verb below `parser.add_subparsers()`, with its own help and example."""
    parser = verbs.add_parser(
        name,
        aliases=aliases,
        help=what,
        description=f"capstan {command} {name}: {what}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  {f'capstan {command} {name} {example}'.rstrip()}",
    )
    # SUPPRESS: a default here would overwrite a --json given before the verb.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    return parser


def add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="why; it goes to the audit log")


def ask(question: Callable[[Session], Awaitable[T]]) -> T:
    """One conversation with the door of `CAPSTAN_URL`, or the recorded one; its answer. Raises CapstanError."""
    # Imported here: `--help` and `config check` should not pay for the HTTP client.
    import stamina.instrumentation

    from client.session import Session

    # A command says what failed in the end; a line for each retry would be noise.
    stamina.instrumentation.set_on_retry_hooks([])

    async def converse() -> T:
        async with Session() as session:
            return await question(session)

    return asyncio.run(converse())


def guarded(work: Callable[[], None], *, as_json: bool = False) -> int:
    """Run a command's work; its exit code. Errors end as one line on stderr."""

    def done() -> int:
        work()
        return 0

    return ending("capstan", done, as_json=as_json)


def print_json(document: Any) -> None:
    """A dict, a list or a message of the client, as one document."""
    print_bytes(json.dumps(msgspec.to_builtins(document), indent=2).encode("ascii") + b"\n")


def print_table(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Rows as a table: `columns` maps a row's key to its heading. Empty: one line that says so."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print(f"{title}: none")
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPE_COLUMNS)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_show(key, row.get(key)) for key in columns))
    with console.capture() as capture:
        console.print(table, highlight=False)
    # Only a terminal's lines end at its edge.
    print("\n".join(line if terminal else line.rstrip() for line in capture.get().splitlines()))


def print_fields(row: Row) -> None:
    """One object, a line a field."""
    for key, value in row.items():
        print(f"{key.replace('_', ' ')}: {_show(key, value)}")


def _show(key: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if (key in ("since", "at") or key.endswith("_at")) and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if key.endswith("bytes") and isinstance(value, (int, float)):
        return show_bytes(value)
    if key.endswith("seconds") and isinstance(value, (int, float)):
        return show_seconds(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)

"""What the operators' commands share: one call to a door, one way to print. No command's own words are here."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from catalog.errors import CapstanError
from catalog.units import show_bytes, show_seconds

Row = Mapping[str, Any]


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


def ask(method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
    """One call to the door, by `CAPSTAN_URL` or the recorded one; the answer's JSON. Raises CapstanError."""
    from client.locations import doors_from
    from client.transport import Transport

    async def call() -> Any:
        async with Transport(doors_from()) as transport:
            return await transport.call(
                method, path, Any, body=body, query={key: str(value) for key, value in query.items()}
            )

    return asyncio.run(call())


def guarded(function: Any, *arguments: Any) -> int:
    """Run a command; a CapstanError becomes one line on stderr and its exit code."""
    try:
        return int(function(*arguments) or 0)
    except CapstanError as exc:
        report_error(exc)
        return exit_code_of(exc)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def report_error(error: CapstanError) -> None:
    print(f"capstan: {error}", file=sys.stderr)


def exit_code_of(error: CapstanError) -> int:
    return {404: 4, 401: 5, 403: 5, 504: 6}.get(error.http_status, 1)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, sort_keys=False))


def print_table(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Rows as a table: `columns` maps a row's key to its heading. Empty: one line that says so."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    if not rows:
        console.print(f"{title}: none", highlight=False)
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_show(key, row.get(key)) for key in columns))
    console.print(table, highlight=False)


def _show(key: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if (key == "since" or key.endswith("_at")) and isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if key.endswith("bytes") and isinstance(value, (int, float)):
        return show_bytes(value)
    if key.endswith("seconds") and isinstance(value, (int, float)):
        return show_seconds(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)

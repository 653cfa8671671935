"""`capstan db rebuild`: the catalog made again from the tapes, when there is no backup of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capstan.commands.common import add_json, guarded, parser_for, print_fields, print_json, print_table

if TYPE_CHECKING:
    from catalog.rebuilding import Outcome
    from tapeserver.scan.rescanning import Progress

PROGRESS_SECONDS = 1.0
PIPE_PROGRESS_SECONDS = 30.0


def run(command: str, words: Sequence[str]) -> int:
    _, *rest = words
    parser = parser_for(
        f"{command} rebuild",
        "Make the catalog again from the volumes of libraries, in an empty database, with every server stopped. "
        "A rebuild that was broken off goes on when it is called again.",
        f"capstan {command} rebuild --library east --library west --data ~/capstan",
    )
    parser.add_argument("--library", action="append", required=True, metavar="NAME", help="its volumes are read; again")
    parser.add_argument("--data", type=Path, help="the data directory of `capstan up`")
    parser.add_argument("--config", type=Path, help="capstan.toml of a site with a database of its own")
    parser.add_argument(
        "--journal", type=Path, metavar="DIR", help="segments of the journal (default: journal_dir); those on tape too"
    )
    parser.add_argument("--catalog", metavar="ID", help="when there are volumes of several catalogs: the wanted one")
    parser.add_argument(
        "--scan-only", action="store_true", help="make the catalog later, when other libraries are read"
    )
    parser.add_argument("--incomplete", action="store_true", help="make the catalog without volumes that fail")
    add_json(parser)
    parsed = parser.parse_intermixed_args(rest)

    def carry_out() -> None:
        from capstan.rebuilding_site import Wish, rebuild_site
        from capstan.sitecatalog import site_catalog
        from client.serving import configure_logging

        configure_logging()
        data = parsed.data.expanduser().absolute() if parsed.data else None
        wish = Wish(
            libraries=parsed.library,
            data=data,
            journal=parsed.journal.expanduser().absolute() if parsed.journal else None,
            catalog_id=parsed.catalog,
            scan_only=parsed.scan_only,
            incomplete=parsed.incomplete,
        )

        async def work() -> Outcome | None:
            async with site_catalog(data, parsed.config, stopped=True) as site:
                return await rebuild_site(site, wish, _show_progress())

        outcome = asyncio.run(work())
        if parsed.json:
            print_json(_document(outcome))
        else:
            _print(outcome)

    return guarded(carry_out, as_json=parsed.json)


def _show_progress() -> Callable[[Progress], None]:
    """A line on stderr now and then: volumes, files, and how many files a second."""
    terminal = sys.stderr.isatty()
    began = last = time.monotonic()
    files_before: int | None = None

    def tell(progress: Progress) -> None:
        nonlocal last, files_before
        now = time.monotonic()
        if files_before is None:
            files_before = progress.files
        if now - last < (PROGRESS_SECONDS if terminal else PIPE_PROGRESS_SECONDS) and progress.done < progress.volumes:
            return
        last = now
        rate = (progress.files - files_before) / max(now - began, 0.001)
        line = f"{progress.done} of {progress.volumes} volumes, {progress.files} copies, {rate:.0f}/s"
        print(f"\r{line}\033[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return tell


def _document(outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return {"scanned": True, "finished": False}
    return {
        "scanned": True, "finished": True, **asdict(outcome),
        "refused": [{"volume": vid, "state": state, "why": why} for vid, state, why in outcome.refused],
        "problems": [{"volume": volume, "what": what} for volume, what in outcome.problems],
    }  # fmt: skip


def _print(outcome: Outcome | None) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if outcome is None:
        print("the volumes were read; call it again without --scan-only to make the catalog")
        return
    document = _document(outcome)
    refused, problems = document.pop("refused"), document.pop("problems")
    print_fields({key: value for key, value in document.items() if key not in ("scanned", "finished")})
    if refused:
        print_table("volumes that are disabled", refused, {"volume": "VOLUME", "state": "IS", "why": "WHY"})
    if problems:
        print_table("problems", problems, {"volume": "VOLUME", "what": "WHAT"})

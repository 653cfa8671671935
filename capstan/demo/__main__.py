"""`python -m capstan.demo`: a temporary directory, the story, the table, the verdict, everything cleared up again.

python -m capstan.demo            # about two minutes; exit code 0 when everything was right
python -m capstan.demo --keep     # leave the directory, and say how to go on with it
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from capstan.demo.checks import Checks, jobs_table
from capstan.demo.screen import Screen
from capstan.demo.site import Site, SiteError
from capstan.demo.story import Story

EXIT_INTERRUPTED = 130
LINE_WIDTH = 140


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m capstan.demo", description="Capstan's whole loop on this machine")
    parser.add_argument("--keep", action="store_true", help="leave the directory with the site and the files")
    options = parser.parse_args(arguments)
    # SIGTERM ends it as Ctrl-C does; and so does SIGINT when a script started this in its background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width; rich would take 80 columns.
        console = Console(highlight=False, width=LINE_WIDTH)
    directory = Path(tempfile.mkdtemp(prefix="capstan-demo-"))
    site = Site(directory)
    try:
        return _demo(directory, site, console)
    except KeyboardInterrupt:
        console.print("interrupted: stopping and clearing up")
        return EXIT_INTERRUPTED
    finally:
        # A second Ctrl-C must not leave half of it behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _clear_up(site, console, keep=options.keep)


def _demo(directory: Path, site: Site, console: Console) -> int:
    checks = Checks()
    with Screen(console) as screen:
        story = Story(directory, site, screen, checks)
        screen.say(f"a site in {directory}")
        failure = None
        try:
            story.tell()
        except SiteError as exc:
            failure = exc
        screen.close()
    if story.submitted:
        console.print(jobs_table(story.job_lines()))
    recalls = [mount for mount in screen.mounts.values() if mount.purpose == "recall"]
    console.print(
        f"{len(story.tree.files):,} files, {story.tree.size / 1e6:,.0f} MB, {len(screen.mounts)} mounts seen, "
        f"{len(recalls)} of them to read, on {len({mount.volume for mount in screen.mounts.values()})} volumes"
    )
    checks.show(console)
    if failure is not None:
        console.print(f"it did not get to its end: {failure}\n{site.logs()}", markup=False, soft_wrap=True)
    good = checks.good and failure is None
    console.print("Every checksum and every job's result is right." if good else "NOT everything is right: see above.")
    return 0 if good else 1


def _clear_up(site: Site, console: Console, *, keep: bool) -> None:
    if keep:
        site.stop()
        console.print(f"kept: capstan up --data {site.data} --port {site.port}", markup=False, soft_wrap=True)
        return
    site.remove()
    shutil.rmtree(site.directory, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""tmv: rename files and directories; no byte moves."""

from __future__ import annotations

import argparse
import posixpath
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from client.cli.common import Results, UsageError, make_parser, parse, run

if TYPE_CHECKING:
    from client.session import Session

_EXAMPLES = (
    "tmv /exp/a /exp/b            rename",
    "tmv /exp/f /exp/g /exp/old/  several, into a directory",
)


def parser() -> argparse.ArgumentParser:
    made = make_parser("tmv", "Rename files and directories.", _EXAMPLES)
    made.add_argument("sources", nargs="+", metavar="PATH", help="names or patterns in quotes")
    made.add_argument(
        "destination", metavar="DEST", help="the new name; ending with / or an existing directory: into it"
    )
    made.add_argument("--force", action="store_true", help="replace a file of that name")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    return run(made, parse(made, argv), _tmv)


async def _tmv(session: Session, arguments: argparse.Namespace) -> int:
    from client.globs import is_glob
    from client.session import normal

    results = Results(name="tmv")
    paths: list[str] = []
    for source in arguments.sources:
        try:
            paths += [entry.path for entry in await session.expand(source)] if is_glob(source) else [normal(source)]
        except CapstanError as exc:
            results.failed(exc, path=source)
    directory = await session.is_directory(arguments.destination)
    into = directory or arguments.destination.endswith("/")
    if len(paths) > 1 and not into:
        raise UsageError(f"{arguments.destination} is not a directory, and there are several names")
    for path in paths:
        target = posixpath.join(arguments.destination, posixpath.basename(path)) if into else arguments.destination
        try:
            await session.move(path, target, replace=arguments.force)
        except CapstanError as exc:
            results.failed(exc, path=path, target=normal(target))
        else:
            results.done(path=path, target=normal(target))
    return results.report(as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())

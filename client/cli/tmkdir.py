"""tmkdir: make directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from client.cli.common import Results, make_parser, parse, run

if TYPE_CHECKING:
    from client.session import Session

_EXAMPLES = (
    "tmkdir /exp/run7                  one directory",
    "tmkdir -p /exp/2026/run7          with its parents, and no error when it is there",
    "tmkdir --class two /exp/precious  what is put below it gets that storage class",
)


def parser() -> argparse.ArgumentParser:
    made = make_parser("tmkdir", "Make directories.", _EXAMPLES)
    made.add_argument("paths", nargs="+", metavar="DIR")
    made.add_argument("-p", "--parents", action="store_true", help="make parents too; an existing one is no error")
    made.add_argument("--class", dest="storage_class", metavar="NAME", help="storage class for files below it")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    return run(made, parse(made, argv), _tmkdir)


async def _tmkdir(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tmkdir")
    for path in arguments.paths:
        try:
            await session.mkdir(
                path, parents=arguments.parents, exist_ok=arguments.parents, storage_class=arguments.storage_class
            )
        except CapstanError as exc:
            results.failed(exc, path=path)
        else:
            results.done(path=path)
    return results.report(as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())

"""Named SQL statements: the ones that take a lock or need their reason told, one file per noun.

A file is a run of blocks. A block opens with `-- name --`, its next line is a comment that says why the statement is
as it is, and the statement follows to the next block:

    -- claim_next --
    -- SKIP LOCKED: two movers must never wait for each other over one recall.
    UPDATE recall ...

This module only finds and parses them; the noun modules run them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_HEADER = re.compile(r"^-- ([a-z][a-z0-9_]*) --[ \t]*$", re.MULTILINE)


@cache
def load(noun: str) -> Mapping[str, str]:
    """The statements of `catalog/sql/<noun>.sql` by name. Raises FileNotFoundError, or ValueError as `parse` does."""
    return MappingProxyType(parse(files(__name__).joinpath(f"{noun}.sql").read_text("utf-8"), source=f"{noun}.sql"))


def parse(text: str, *, source: str = "sql") -> dict[str, str]:
    """Statements by name, in the order of the text; the reason stays in the statement, for the server's log.

    Raises ValueError when text stands before the first block, a name comes twice, or a block lacks its reason or
    its statement.
    """
    parts = _HEADER.split(text)
    if any(line.strip() and not line.lstrip().startswith("--") for line in parts[0].splitlines()):
        raise ValueError(f"{source}: there is a statement before the first `-- name --`")
    statements: dict[str, str] = {}
    for name, block in zip(parts[1::2], parts[2::2], strict=True):
        lines = block.strip().splitlines()
        if name in statements:
            raise ValueError(f"{source}: {name} is there twice")
        if not lines or not lines[0].startswith("-- ") or not lines[0][3:].strip():
            raise ValueError(f"{source}: {name} needs a comment line that says why, right below its name")
        if all(line.lstrip().startswith("--") or not line.strip() for line in lines):
            raise ValueError(f"{source}: {name} has no statement")
        statements[name] = "\n".join(lines).rstrip(";\n ")
    return statements

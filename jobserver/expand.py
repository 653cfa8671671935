"""The inputs of a job from what its user wrote: paths and globs, looked up with the user's own token.

A glob works by components, as in a shell (`*` crosses no `/` and matches no leading dot), and matches files only. It
knows nothing of pins or volumes; what it gives is file ids, so that a later change of names changes no job.
"""

from __future__ import annotations

import fnmatch
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from catalog.errors import Denied, IsADirectory, NoSuchInput, NotADirectory, NotFound, TooLarge
from catalog.model import Grant, grants_cover, join_path, parse_path
from client.messages import PATHS_MAX, Entry, FileLocation
from jobserver.grants import JOB_ACTIONS
from jobserver.store import Input

_MAGIC = frozenset("*?[")


class Namespace(Protocol):
    """The namespace as the submitter may see it."""

    def directory(self, path: str) -> AsyncIterator[Entry]:
        """Every name in a directory. Raises NotFound, NotADirectory."""

    async def whereis(self, paths: Sequence[str]) -> list[FileLocation]:
        """At most PATHS_MAX paths, answered in their order."""


async def expand(namespace: Namespace, wanted: Sequence[str], *, inputs_max: int) -> tuple[Input, ...]:
    """Every file once, in the order in which it was first named.

    Raises NoSuchInput for a path that is not there and for a glob that matches no file, IsADirectory, BadPath, TooLarge
    for more than `inputs_max`.
    """
    found: dict[int, Input] = {}
    plain: list[str] = []

    def add(item: Input) -> None:
        found.setdefault(item.file, item)
        if len(found) > inputs_max:
            raise TooLarge(what="the number of inputs", actual=f"more than {inputs_max}", limit=inputs_max)

    for text in wanted:
        components = parse_path(text)
        if not any(_MAGIC.intersection(component) for component in components):
            plain.append(join_path(components))
            continue
        for item in await _look_up(namespace, plain):
            add(item)
        plain = []
        matched = False
        async for item in _matches(namespace, (), components):
            matched = True
            add(item)
        if not matched:
            raise NoSuchInput(path=text)
    for item in await _look_up(namespace, plain):
        add(item)
    return tuple(found.values())


def check_rights(inputs: Sequence[Input], grants: Sequence[Grant], *, owner: str) -> None:
    """Raises Denied for the first input that the submitter may not read and stage."""
    for item in inputs:
        for action in JOB_ACTIONS:
            if not grants_cover(grants, action, item.path):
                raise Denied(owner=owner, action=str(action), path=item.path)


async def _look_up(namespace: Namespace, paths: Sequence[str]) -> list[Input]:
    found: list[Input] = []
    for start in range(0, len(paths), PATHS_MAX):
        chunk = paths[start : start + PATHS_MAX]
        for path, location in zip(chunk, await namespace.whereis(chunk), strict=True):
            if location.error is None:
                found.append(Input(file=location.file_id, path=path, size=location.size))
            elif location.error.code == IsADirectory.code:
                raise IsADirectory(path=path)
            elif location.error.code == Denied.code:
                raise Denied(owner="the submitter", action="poll", path=path)
            else:
                raise NoSuchInput(path=path)
    return found


async def _matches(namespace: Namespace, parent: tuple[str, ...], rest: tuple[str, ...]) -> AsyncIterator[Input]:
    literal: list[str] = []
    while rest and not _MAGIC.intersection(rest[0]):
        literal.append(rest[0])
        rest = rest[1:]
    parent = (*parent, *literal)
    if not rest:
        # A plain name behind a glob, as in /exp/*/calibration: it need not be there in every directory.
        (location,) = await namespace.whereis([join_path(parent)])
        if location.error is None:
            yield Input(file=location.file_id, path=join_path(parent), size=location.size)
        return
    try:
        async for entry in namespace.directory(join_path(parent)):
            name = entry.path.rpartition("/")[2]
            if not _matches_name(name, rest[0]):
                continue
            if len(rest) == 1 and not entry.is_directory:
                yield Input(file=entry.file_id, path=entry.path, size=entry.size)
            elif len(rest) > 1 and entry.is_directory:
                async for item in _matches(namespace, (*parent, name), rest[1:]):
                    yield item
    except (NotFound, NotADirectory):
        return


def _matches_name(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, pattern)

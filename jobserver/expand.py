"""The inputs of a job from what its user wrote: paths and globs, looked up with the user's own token.

A glob matches files only, by the client's own rules. It knows nothing of pins or volumes; what it gives is file ids,
so that a name that is taken by another file later changes no job.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog.errors import Denied, IsADirectory, NoSuchInput, NotFound, TooLarge
from catalog.model import Grant, grants_cover, join_path, parse_path
from client.globs import is_glob
from client.session import Session
from jobserver.grants import JOB_ACTIONS
from jobserver.store import Input


async def expand(session: Session, wanted: Sequence[str], *, inputs_max: int) -> tuple[Input, ...]:
    """Every file once, in the order in which it was first named.

    Raises NoSuchInput for a path that is not there and for a glob that matches no file, IsADirectory, BadPath, TooLarge
    for more than `inputs_max`.
    """
    found: dict[int, Input] = {}
    plain: list[str] = []
    for text in [*wanted, None]:
        if text is not None and not is_glob(text):
            plain.append(join_path(parse_path(text)))
            continue
        # Plain names that stood before this glob, in few calls however many they are.
        found |= {item.file: item for item in await _look_up(session, plain) if item.file not in found}
        plain = []
        if text is not None:
            found |= {item.file: item for item in await _match(session, text) if item.file not in found}
        if len(found) > inputs_max:
            raise TooLarge(what="the number of inputs", actual=len(found), limit=inputs_max)
    return tuple(found.values())


def check_rights(inputs: Sequence[Input], grants: Sequence[Grant], *, owner: str) -> None:
    """Raises Denied for the first input that the submitter may not read and stage."""
    for item in inputs:
        for action in JOB_ACTIONS:
            if not grants_cover(grants, action, item.path):
                raise Denied(owner=owner, action=str(action), path=item.path)


async def _look_up(session: Session, paths: Sequence[str]) -> list[Input]:
    found = []
    for path, location in zip(paths, await session.whereis(paths), strict=True):
        code = location.error.code if location.error is not None else ""
        if code == IsADirectory.code:
            raise IsADirectory(path=path)
        if code == Denied.code:
            raise Denied(owner="the submitter", action="poll", path=path)
        if code:
            raise NoSuchInput(path=path)
        found.append(Input(file=location.file_id, path=path, size=location.size))
    return found


async def _match(session: Session, pattern: str) -> list[Input]:
    parse_path(pattern)
    try:
        entries = await session.expand(pattern)
    except NotFound as error:
        raise NoSuchInput(path=pattern) from error
    for entry in entries:
        if entry.is_directory:
            raise IsADirectory(path=entry.path)
    return [Input(file=entry.file_id, path=entry.path, size=entry.size) for entry in entries]

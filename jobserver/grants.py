"""The rights that a job's token gets: to read and stage its inputs, in a bounded number of grants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from catalog.model import Action, Grant, grants_cover, is_below

#: what a job may do with its inputs
JOB_ACTIONS = (Action.READ, Action.STAGE)


def job_grants(paths: Iterable[str], owned: Sequence[Grant], *, grants_max: int) -> list[Grant]:
    """Grants that cover all `paths` for JOB_ACTIONS, at most about `grants_max`, and none beyond the submitter's own.

    Exact paths when they are few, else their directories, else directories further up; but never above a prefix that
    the submitter has the right on: then that prefix itself, of which there are as few as in the submitter's token.
    """
    prefixes_max = max(1, grants_max // len(JOB_ACTIONS))
    prefixes = set(paths)
    while len(prefixes) > prefixes_max:
        raised = {_raise(prefix, owned) for prefix in prefixes}
        if raised == prefixes:
            break
        prefixes = raised
    reduced = _without_covered(prefixes)
    return [Grant(action=action, prefix=prefix) for action in JOB_ACTIONS for prefix in reduced]


def _raise(prefix: str, owned: Sequence[Grant]) -> str:
    parent = prefix.rpartition("/")[0] or "/"
    covered = all(grants_cover(owned, action, parent) for action in JOB_ACTIONS)
    return parent if covered else prefix


def _without_covered(prefixes: set[str]) -> list[str]:
    kept: list[str] = []
    for prefix in sorted(prefixes):
        # Sorted by text, "/a" is not always right before "/a/b" ("/a-b" lies between), so look at all kept ones.
        if not any(is_below(prefix, one) for one in kept):
            kept.append(prefix)
    return kept

"""Shell-like patterns over namespace paths. Pure: no listing; `*`, `?` and `[…]` match within one component."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

_MAGIC = re.compile(r"[*?\[]")


def is_glob(text: str) -> bool:
    return _MAGIC.search(text) is not None


def split(pattern: str) -> tuple[str, list[str]]:
    """The directory before the first component with a wildcard, and the components from there on.

    `/exp/run*/a.dat` -> (`/exp`, [`run*`, `a.dat`]).
    """
    components = [part for part in pattern.split("/") if part]
    first = next((number for number, part in enumerate(components) if is_glob(part)), len(components))
    return "/" + "/".join(components[:first]), components[first:]


def matcher(component: str) -> Callable[[str], bool]:
    """Whether a name matches; as in a shell, a leading dot is matched by a dot only."""
    compiled = re.compile(fnmatch.translate(component))
    hidden = component.startswith(".")
    return lambda name: (hidden or not name.startswith(".")) and compiled.match(name) is not None

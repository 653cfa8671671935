"""Which files share a tape file, and in which order tape files are written. Pure.

What was claimed comes in the order in which it is to be written: urgent files, then group after group of what will be
read together. Small files of a group, and of groups beside it, become a bundle; the files of a group stay together. It
neither waits nor claims: what is too little for a bundle is written as it is; what waits is `gathering`'s. How long
a drive takes for it is in `tapeaccount`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, Protocol, TypeVar

MEMBER_OVERHEAD_BYTES = 1664
"""What a member's headers, its padding and its line in the list take, about: docs/storage.md."""


class File(Protocol):
    @property
    def size(self) -> int: ...


class Piece(Protocol):
    """One archive, as far as this module looks at it."""

    @property
    def file(self) -> File: ...

    @property
    def collocation(self) -> str: ...

    @property
    def urgent(self) -> bool: ...


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    #: files of this size and more are written alone
    member_bytes_max: int
    #: of a bundle, with its headers; a single member may be longer
    bytes_max: int
    files_max: int


def tape_files(claimed: Iterable[P], limits: Limits) -> Iterator[list[P]]:
    """The tape files in the order of writing, each with its members; one with a single member is no bundle.

    Every archive is in exactly one. The files of a group are neighbours: what is small in a group joins the bundle that
    the group before has left open, and its large files come behind; where none is open, the large ones come first.
    Urgent files share a bundle with each other alone, so that they are on tape first.
    """
    bundle: _Open[P] = _Open(limits)
    for (urgent, _), members in groupby(claimed, key=lambda one: (one.urgent, "" if one.urgent else one.collocation)):
        group = list(members)
        small = [one for one in group if one.file.size < limits.member_bytes_max]
        large = [[one] for one in group if one.file.size >= limits.member_bytes_max]
        if not bundle.members and not urgent:
            yield from large
            yield from bundle.add(small)
        else:
            yield from bundle.add(small)
            if large or urgent:
                yield from bundle.close()
            yield from large
    yield from bundle.close()


def fills(small: Sequence[Piece], limits: Limits) -> bool:
    """Whether these make a whole bundle, or more."""
    return len(small) >= limits.files_max or sum(_length(one) for one in small) >= limits.bytes_max


class _Open(Generic[P]):
    """The bundle that is being filled."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.members: list[P] = []
        self._bytes = 0

    def add(self, group: Sequence[P]) -> Iterator[list[P]]:
        """Fill up with a group; gives out the bundles that became full. What fits in one is not torn for little."""
        limits = self._limits
        length = sum(_length(one) for one in group)
        fits_alone = length <= limits.bytes_max and len(group) <= limits.files_max
        fits = self._bytes + length <= limits.bytes_max and len(self.members) + len(group) <= limits.files_max
        half_full = 2 * self._bytes >= limits.bytes_max or 2 * len(self.members) >= limits.files_max
        if fits_alone and not fits and half_full:
            yield from self.close()
        for one in group:
            if len(self.members) == limits.files_max or (
                self.members and self._bytes + _length(one) > limits.bytes_max
            ):
                yield from self.close()
            self.members.append(one)
            self._bytes += _length(one)

    def close(self) -> Iterator[list[P]]:
        if self.members:
            yield self.members
        self.members, self._bytes = [], 0


def _length(one: Piece) -> int:
    return one.file.size + MEMBER_OVERHEAD_BYTES

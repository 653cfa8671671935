"""What a user of a site under fire knows: which content each name may hold, after every answer and every silence.

A definite answer leaves one possibility. No answer leaves two: the old state or the new one, and nothing in between;
such a name is left alone from then on, since the lost request may still come to its end. Pure.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

#: size and adler32, as a listing shows them
Seen = tuple[int, str]


def adler32(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that can be made again from their number."""

    number: int
    size: int
    #: tape copies that its storage class asks for
    copies: int = 1

    def bytes(self) -> bytes:
        return random.Random(self.number).randbytes(self.size)

    @property
    def adler32(self) -> str:
        return adler32(self.bytes())

    @property
    def seen(self) -> Seen:
        return self.size, self.adler32


@dataclass
class Names:
    """The names of one worker; nobody else touches them."""

    #: what is there for certain
    certain: dict[str, Content] = field(default_factory=dict)
    #: names whose last request had no answer; None: not there
    unsure: dict[str, frozenset[Content | None]] = field(default_factory=dict)
    #: (source, target, content) of moves without an answer: it is at exactly one of the two
    moving: list[tuple[str, str, Content]] = field(default_factory=list)

    def put(self, path: str, content: Content, *, answered: bool) -> None:
        if answered:
            self.certain[path] = content
        else:
            self.unsure[path] = frozenset({self.certain.pop(path, None), content})

    def removed(self, path: str, *, answered: bool) -> None:
        content = self.certain.pop(path)
        if not answered:
            self.unsure[path] = frozenset({content, None})

    def moved(self, source: str, target: str, *, answered: bool) -> None:
        content = self.certain.pop(source)
        if answered:
            self.certain[target] = content
        else:
            self.moving.append((source, target, content))

    def may_move(self, directory: str) -> bool:
        """Whether all that is below is known for certain, and there is something."""
        below = [name for name in self.known() if name.startswith(f"{directory}/")]
        return bool(below) and all(name in self.certain for name in below)

    def moved_tree(self, source: str, target: str, *, answered: bool) -> None:
        for path in [name for name in self.certain if name.startswith(f"{source}/")]:
            self.moved(path, target + path.removeprefix(source), answered=answered)

    def wrong(self, found: dict[str, Seen]) -> list[str]:
        """What the listing `found` has that cannot be."""
        mistakes = [
            f"{path}: acknowledged {content}, there is {found.get(path)}"
            for path, content in self.certain.items()
            if found.get(path) != content.seen
        ]
        mistakes += [
            f"{path}: may be {sorted(map(str, possible))}, there is {found.get(path)}"
            for path, possible in self.unsure.items()
            if found.get(path) not in {content.seen if content else None for content in possible}
        ]
        for source, target, content in self.moving:
            at = [found.get(source), found.get(target)]
            if at not in ([content.seen, None], [None, content.seen]):
                mistakes.append(f"{source} -> {target}: {content} must be at one of them, there is {at}")
        return mistakes

    def known(self) -> set[str]:
        pairs = {name for source, target, _ in self.moving for name in (source, target)}
        return set(self.certain) | set(self.unsure) | pairs

"""What devices say in words, as text that can be kept, sent and shown. Understands none of it."""

from __future__ import annotations

#: of a model; of a sentence
NAME_LENGTH_MAX = 100
SENTENCE_LENGTH_MAX = 1000


def in_words(told: str, length_max: int = SENTENCE_LENGTH_MAX) -> str:
    """`told` on one line, at most so long, without what pads it at its ends.

    A field of a device may be padded with zeros, hold bytes that are no UTF-8, or be torn: no database takes the one,
    no message the other. What is not to be printed becomes the replacement character.
    """
    kept = told[: 2 * length_max].strip(" \t\r\n\0")[:length_max]
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in kept)

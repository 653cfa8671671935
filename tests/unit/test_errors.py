"""What an error says is a sentence, also when what it tells of was one already."""

from __future__ import annotations

import pytest

from catalog.errors import BadRequest


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("no name", "The request cannot be understood: no name."),
        ("There is no name.", "The request cannot be understood: There is no name."),
        ("no name...", "The request cannot be understood: no name...."),
    ],
)
def test_a_sentence_in_a_sentence_ends_with_one_full_stop(why: str, said: str) -> None:
    assert str(BadRequest(why=why)) == said

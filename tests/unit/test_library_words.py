"""Promises of what devices say: whatever it is, it can be kept in a database, sent, and shown on a terminal."""

from __future__ import annotations

import pytest

from tapeserver.compatibility import generation_of
from tapeserver.library import Alert, DriveStatus
from tapeserver.library.words import NAME_LENGTH_MAX, SENTENCE_LENGTH_MAX, in_words


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("ULT3580-TD8\0\0\0  ", "ULT3580-TD8"), ("  \0", ""), ("Größe 1", "Größe 1"),
        ("a\0b\nc\x1b[2Jd", "a\ufffdb\ufffdc\ufffd[2Jd"),
        (b"LTO\xff-8".decode(errors="surrogateescape"), "LTO\ufffd-8"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_or_shown_is_replaced_and_padding_goes(told: str, kept: str) -> None:
    assert in_words(told) == kept
    in_words(told).encode()


def test_it_is_never_longer_than_its_limit() -> None:
    assert len(in_words("x" * 10**6)) == SENTENCE_LENGTH_MAX
    assert in_words("  abcdef", 3) == "abc"


def test_a_library_s_answers_are_words_however_it_came_to_them() -> None:
    drive = DriveStatus("east-1", None, 7, model="ULT3580-TD8\0\0" + " " * 20, detail="broken\0fan")
    assert generation_of(drive.model) == "LTO-8"
    assert drive.detail == "broken\ufffdfan"
    assert len(DriveStatus("east-1", None, 7, model="y" * 5000).model) == NAME_LENGTH_MAX
    alert = Alert(code="clean_now\0", severity="critical", text="a\udcffb")
    assert (alert.code, alert.text) == ("clean_now", "a\ufffdb")

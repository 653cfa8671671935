"""Promises of signed URLs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import BadSignature
from catalog.signing import AdminClaims, BulkClaims, GetClaims, PutClaims, SigningKey, UnknownKey, sign, verify

OLD = SigningKey(key_id=1, secret=b"o" * 32)
NEW = SigningKey(key_id=2, secret=b"n" * 32)
NOON = 1_000_000.0
GET = GetClaims(replica_id=5, file_id=6, size=7, adler32="00000001", name="f", expires_at=NOON + 600)
PUT = PutClaims(
    replica_id=5, parent_node=1, name="ü", path="/exp/ü", size=None, digests={"adler32": "00000001"},
    storage_class="one",
    owner="ann", group="exp", mode=0o644, mtime_ns=1, expires_at=NOON + 600,
)  # fmt: skip


@pytest.mark.parametrize(
    "claims", [GET, PUT, BulkClaims(cache_server="c", epoch=3, expires_at=NOON + 1), AdminClaims(expires_at=NOON + 1)]
)
def test_what_was_signed_is_read_back(claims: GetClaims | PutClaims | BulkClaims | AdminClaims) -> None:
    assert verify(sign(claims, [OLD, NEW]), [OLD, NEW], NOON) == claims


def test_the_newest_key_signs_and_the_older_one_still_verifies() -> None:
    assert sign(GET, [OLD, NEW]).startswith("2.")
    assert verify(sign(GET, [OLD]), [NEW, OLD], NOON) == GET


def test_a_retired_key_is_told_from_a_forged_signature() -> None:
    with pytest.raises(UnknownKey):
        verify(sign(GET, [OLD]), [NEW], NOON)
    forged = sign(GET, [SigningKey(key_id=2, secret=b"x" * 32)])
    with pytest.raises(BadSignature, match="wrong") as caught:
        verify(forged, [OLD, NEW], NOON)
    assert caught.value.code == "bad_signature"


def test_a_url_ends_at_its_expiry() -> None:
    signed = sign(GET, [NEW])
    assert verify(signed, [NEW], NOON + 599.9) == GET
    with pytest.raises(BadSignature, match="expired"):
        verify(signed, [NEW], NOON + 600)


@given(st.text(max_size=80) | st.from_regex(r"2\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,50}"))
def test_no_text_but_a_signed_one_is_believed(text: str) -> None:
    with pytest.raises(BadSignature):
        verify(text, [OLD, NEW], NOON)


@given(st.integers(0, 400), st.characters(min_codepoint=33, max_codepoint=126))
def test_changing_any_letter_breaks_it(place: int, letter: str) -> None:
    signed = sign(GET, [NEW])
    place %= len(signed)
    changed = signed[:place] + letter + signed[place + 1 :]
    if changed != signed:
        with pytest.raises(BadSignature):
            verify(changed, [NEW], NOON)


def test_another_spelling_of_the_same_signature_is_none() -> None:
    signed = sign(GET, [NEW])
    # Thirty-two bytes are 43 letters of base64, and the last of them holds two bits that decoding ignores.
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = signed[:-1] + letters[letters.index(signed[-1]) ^ 1]
    with pytest.raises(BadSignature):
        verify(other, [NEW], NOON)

"""catalog.sql: named statements, each with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog import sql

TEXT = """-- What this file is about.

-- claim_next --
-- SKIP LOCKED: nobody waits for anybody.
SELECT 1 -- trailing
FROM recall;

-- give_back --
-- One row.
UPDATE recall SET state = 'queued'
"""


def test_statements_are_found_by_name_in_order_and_without_their_semicolon() -> None:
    found = sql.parse(TEXT)
    assert list(found) == ["claim_next", "give_back"]
    assert found["claim_next"].splitlines()[1:] == ["SELECT 1 -- trailing", "FROM recall"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1;\n-- a --\n-- Why.\nSELECT 1", "before the first"),
        ("-- a --\nSELECT 1", "says why"),
        ("-- a --\n-- Why.\n", "no statement"),
        ("-- a --\n-- Why.\nSELECT 1;\n-- a --\n-- Why.\nSELECT 2;", "twice"),
    ],
)
def test_a_careless_file_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sql.parse(text)


@pytest.mark.parametrize("noun", sorted(path.stem for path in Path(sql.__file__).parent.glob("*.sql")))
def test_every_file_of_the_catalog_can_be_read(noun: str) -> None:
    assert sql.load(noun)

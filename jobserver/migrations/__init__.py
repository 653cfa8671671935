"""The history of the schema `jobs`: alembic's environment and one file per revision, apart from the catalog's.

`await upgrade(url)` at every start of the job server; the catalog's own revisions must be there before (its clock).
"""

from __future__ import annotations

from pathlib import Path

from catalog import migrate


async def upgrade(url: str) -> None:
    """Apply every revision of the schema `jobs` that the database lacks. Safe to repeat, and at the same time."""
    await migrate.upgrade(url, scripts=Path(__file__).parent)

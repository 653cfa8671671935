"""A row of the file table as the record that every process knows. The one place that knows which column is which."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from catalog.model import FileRecord


def record_of(row: sa.Row[Any], path: str) -> FileRecord:
    """`row` has the columns of `file`; `path` is the present one, or `row.stored_path`."""
    return FileRecord(
        file_id=row.id,
        path=path,
        size=row.size,
        adler32=row.adler32,
        mtime_ns=row.mtime_ns,
        mode=row.mode,
        owner=row.owner,
        group=row.grp,
        storage_class=row.storage_class,
        digests=dict(row.digests),
    )

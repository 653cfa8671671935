"""What integration tests share: a place for tapes and caches that costs no time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 2 << 30


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where there is plenty: every fsync is still called, and waits for no disk."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _MEMORY_BYTES_MIN:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="capstan-site-", dir=_MEMORY, ignore_cleanup_errors=True) as directory:
        yield Path(directory)

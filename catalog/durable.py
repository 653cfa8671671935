"""What has to be there after a crash of the machine. Knows nothing of what is in the files; names are the callers'."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """On return the bytes of a file, or the names in a directory, are on the disk. Blocks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

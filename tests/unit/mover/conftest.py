"""A library with one blank volume, a cache server, a mover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeserver.frames import Loaded, Written
from tapeserver.library.virtual import add_cartridge, create_virtual_library
from tests.unit.mover.harness import SIZES, MoverInTest, TinyCache, labelled, mount, write_files


@pytest.fixture
def cache() -> Iterator[TinyCache]:
    made = TinyCache()
    yield made
    made.close()


@pytest.fixture
def east(tmp_path: Path) -> Path:
    create_virtual_library(tmp_path / "east", "east", 2, 2)
    add_cartridge(tmp_path / "east", "A00001", 8 * 1024 * 1024)
    return tmp_path / "east"


@pytest.fixture
def mover(east: Path, cache: TinyCache) -> Iterator[MoverInTest]:
    # Asks for the cache only to be closed before it.
    made = MoverInTest(east)
    yield made
    made.close()


@pytest.fixture
def archived(mover, east, cache) -> Written:
    labelled(mover, east)
    written = write_files(mover, east, cache, SIZES)
    mount(east, 3)
    assert isinstance(mover.load(3, "recall"), Loaded)
    return written

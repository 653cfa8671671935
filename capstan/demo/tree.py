"""The files of the demo: the standard library's own source, and a few large files made from it. Originals to compare.

DIR/two/…    the source of some packages, two large files in `large`: class `two`, a copy in each library
DIR/one/…    the rest of the source, two large files in `large`: class `one`, a single copy
"""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from catalog.units import MB

#: the packages that get two copies; the rest has one
TWICE = frozenset({"asyncio", "email", "encodings", "json", "unittest", "xml", "urllib", "http", "logging", "ctypes"})
_NOT_ITS_OWN = frozenset({"site-packages", "dist-packages", "__pycache__"})
#: (storage class, name): the class is also the branch of the tree
LARGE = (("two", "orbit.dat"), ("two", "spectrum.dat"), ("one", "track.dat"), ("one", "beam.dat"))
LARGE_BYTES_MAX = 200 * MB
LARGE_BYTES_MIN = 8 * MB
#: originals, replicas, two tape copies of half of it, a copy read back, and the reserve that the cache keeps free
_SPACE_PER_LARGE_BYTE = len(LARGE) * 4.5
_SPACE_KEPT = 3_000 * MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A file as it was before Capstan saw it, and the name it gets there."""

    source: Path
    path: str
    size: int
    storage_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    root: Path
    files: tuple[Original, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def below(self, prefix: str) -> list[Original]:
        """The files whose name is `prefix` or lies below it, in the order of their names' bytes."""
        found = (file for file in self.files if file.path == prefix or file.path.startswith(prefix.rstrip("/") + "/"))
        return sorted(found, key=lambda file: file.path.encode())


def large_bytes(free: int) -> int:
    """The size of one large file where `free` bytes are free: up to 200 MB, less when space is short. Pure."""
    return max(LARGE_BYTES_MIN, min(LARGE_BYTES_MAX, int((free - _SPACE_KEPT) / _SPACE_PER_LARGE_BYTE)))


def make_tree(root: Path, namespace: str) -> Tree:
    """Lay the originals out below `root`; they are to be put to `namespace` under the same names."""
    library = Path(sysconfig.get_path("stdlib"))
    files = []
    for source in sorted(library.rglob("*.py")):
        inside = source.relative_to(library)
        if source.is_symlink() or not source.is_file() or _NOT_ITS_OWN.intersection(inside.parts):
            continue
        storage_class = "two" if inside.parts[0] in TWICE else "one"
        target = root / storage_class / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        files.append(_original(root, target, namespace, storage_class))
    size = large_bytes(shutil.disk_usage(root).free)
    pieces = [file.source.read_bytes() for file in files]
    for number, (storage_class, name) in enumerate(LARGE):
        target = root / storage_class / "large" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _concatenate(target, pieces, size, start=number * 7)
        files.append(_original(root, target, namespace, storage_class))
    return Tree(root=root, files=tuple(files))


def _original(root: Path, source: Path, namespace: str, storage_class: str) -> Original:
    path = f"{namespace}/{source.relative_to(root).as_posix()}"
    return Original(source=source, path=path, size=source.stat().st_size, storage_class=storage_class)


def _concatenate(target: Path, pieces: list[bytes], size: int, *, start: int) -> None:
    """Write the pieces one after the other, from `start` on and round again, until `target` has `size` bytes."""
    with target.open("wb") as file:
        left, at = size, start
        while left:
            # A line that numbers the piece makes the files differ from each other, and from a repeated half.
            piece = b"# piece %d\n" % at + pieces[at % len(pieces)]
            left -= file.write(piece[:left])
            at += 1

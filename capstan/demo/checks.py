"""What the demo claims at its end, each claim compared with what the original files say; and the table of jobs.

Everything is collected: a wrong one does not hide the next. Nothing is asked of the site here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from catalog.units import MB

_CHUNK_BYTES = 1 << 20
_WRONG_SHOWN = 5


@dataclass(slots=True)
class Checks:
    """Claims, as sentences, and whether they hold."""

    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def claim(self, holds: bool, sentence: str, evidence: str = "") -> bool:
        """Note `sentence`; `evidence` is what was seen, shown when it does not hold."""
        if holds:
            self.held.append(sentence)
        else:
            self.broken.append(f"{sentence}: NOT SO{f': {evidence}' if evidence else ''}")
        return holds

    def claim_none(self, wrong: list[str], sentence: str) -> bool:
        """It holds when nothing is wrong."""
        more = f" and {len(wrong) - _WRONG_SHOWN} more" if len(wrong) > _WRONG_SHOWN else ""
        return self.claim(not wrong, sentence, "; ".join(wrong[:_WRONG_SHOWN]) + more)

    @property
    def good(self) -> bool:
        return bool(self.held) and not self.broken

    def show(self, console: Console) -> None:
        for sentence in self.held:
            console.print(f"  right   {sentence}", markup=False, soft_wrap=True)
        for sentence in self.broken:
            console.print(f"  WRONG   {sentence}", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One line of the table at the end; times in seconds."""

    number: int
    name: str
    files: int
    size: int
    copies: int
    volumes: list[str]
    mounts: int
    waited_seconds: float | None
    ran_seconds: float | None
    result: str
    right: bool


def jobs_table(lines: list[JobLine]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("job", "name", "files", "MB", "copies", "volumes", "mounts", "wait s", "run s", "result", ""):
        table.add_column(
            name, justify="right" if name in ("job", "files", "MB", "mounts", "wait s", "run s") else "left"
        )
    for line in lines:
        table.add_row(
            str(line.number),
            line.name,
            f"{line.files:,}",
            f"{line.size / MB:,.1f}",
            str(line.copies),
            " ".join(line.volumes),
            str(line.mounts),
            _seconds(line.waited_seconds),
            _seconds(line.ran_seconds),
            line.result[:12] + ("…" if len(line.result) > 12 else ""),
            "right" if line.right else "WRONG",
        )
    return table


def adler32_of(path: Path) -> str:
    """As Capstan writes it, by another implementation than the one Capstan uses."""
    value = 1
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.adler32(chunk, value)
    return f"{value:08x}"


def same_bytes(left: Path, right: Path) -> bool:
    if left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while True:
            chunk = one.read(_CHUNK_BYTES)
            if chunk != other.read(_CHUNK_BYTES):
                return False
            if not chunk:
                return True


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"

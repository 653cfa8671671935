"""The files of a job beside its own directory: its token and its input list, in `data_dir/jobs/ID`.

They lie outside the directory in which the job runs, which is the batch system's to make. Nothing here decides what
is written; the functions block for microseconds (small files, no fsync: they are written anew before a start).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class JobFiles:
    def __init__(self, data_dir: Path, job: int) -> None:
        self.directory = data_dir.resolve() / "jobs" / str(job)

    @property
    def token(self) -> Path:
        return self.directory / "token"

    @property
    def input_list(self) -> Path:
        return self.directory / "inputs"

    def write_token(self, secret: str) -> None:
        self._write(self.token, f"{secret}\n")

    def write_inputs(self, inputs: Iterable[tuple[str, str]]) -> None:
        """A line per input: namespace path, tab, path on this host or nothing. Names hold neither tabs nor newlines."""
        self._write(self.input_list, "".join(f"{path}\t{local}\n" for path, local in inputs))

    def remove(self) -> None:
        """Safe to repeat."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def _write(self, path: Path, text: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = path.with_suffix(".new")
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
            handle.write(text)
        unfinished.rename(path)

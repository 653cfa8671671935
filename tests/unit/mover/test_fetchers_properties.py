"""Whatever comes from a cache server, in whatever pieces: what is called good is what a reader of the tape finds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from catalog.errors import Damaged
from catalog.model import FileRecord
from client import bulkframes
from client.bulkframes import Kind
from tapeserver.format import pax
from tapeserver.format.bundles import MEMBERS_MAX, list_member, parse_list
from tapeserver.format.objects import adler32, adler32_text
from tapeserver.frames import Load, WriteItem
from tapeserver.mover import fetchers
from tapeserver.mover.fetchers import CacheFetcher
from tapeserver.mover.incoming import Begun, Block, Ended, Over, Refused, part_of
from tests.unit.mover.harness import CATALOG_ID, data_of

LOAD = Load(
    epoch=1, library_spec={}, drive="d", volume="A00001", generation=3, catalog_id=CATALOG_ID, purpose="archive"
)
Fate = Literal["good", "absent", "short", "long", "flipped", "told wrong", "error within", "stream breaks"]
WRONG: list[Fate] = ["absent", "short", "long", "flipped", "told wrong", "error within"]


@dataclass(frozen=True)
class File:
    size: int
    fate: Fate

    def data(self, number: int) -> bytes:
        return data_of(number, self.size)

    @property
    def right(self) -> bool:
        """An empty file can be neither too short nor changed."""
        return self.fate == "good" or (self.size == 0 and self.fate in ("short", "flipped"))


class Replies:
    """In place of a connection: the frames of the files that are wanted, in pieces of `piece` bytes."""

    place = "memory"

    def __init__(self, files: dict[int, File], piece: int, frame: int, sends_max: int) -> None:
        self._files, self._piece, self._frame, self._sends_left = files, piece, frame, sends_max
        self._pending = bytearray()

    def send(self, pieces: Sequence[bytes]) -> None:
        self._sends_left -= 1
        if self._sends_left < 0:
            raise BrokenPipeError
        sent = b"".join(pieces)
        for at in range(0, len(sent), bulkframes.HEADER_BYTES):
            kind, number, _ = bulkframes.parse_header(sent[at : at + bulkframes.HEADER_BYTES])
            if kind is Kind.WANT:
                self._pending += self._reply(number)

    def _reply(self, number: int) -> bytes:
        file = self._files[number]
        data, told = file.data(number), adler32(file.data(number))
        if file.fate == "absent":
            return bulkframes.error(number, Damaged(what="it", why="absent"))
        if file.fate == "short":
            data = data[: len(data) // 2]
        elif file.fate == "long":
            data += b"more"
        elif file.fate == "flipped" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif file.fate == "told wrong":
            told ^= 1
        elif file.fate in ("error within", "stream breaks"):
            data = data[: len(data) // 3]
        size = len(data) if file.fate in ("short", "long") else file.size
        frames = [bulkframes.begin(number, size)]
        for at in range(0, len(data), self._frame):
            part = data[at : at + self._frame]
            frames += [bulkframes.data_header(number, len(part)), part]
        if file.fate == "error within":
            frames.append(bulkframes.error(number, Damaged(what="it", why="unreadable")))
        elif file.fate != "stream breaks":
            frames.append(bulkframes.end(number, told))
        else:
            frames.append(b"no frame at all, but long enough to be taken for the header of one")
        return b"".join(frames)

    def received(self) -> Replies:
        return self

    def read1(self, size: int) -> bytes:
        taken = bytes(self._pending[: min(size, self._piece)])
        del self._pending[: len(taken)]
        return taken

    def readinto(self, buffer: memoryview) -> int:
        taken = self.read1(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def gone(self) -> bool:
        return False

    def end_sending(self) -> None: ...

    def shut_down(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Taped:
    """A tape file as it would lie on tape."""

    begun: Begun
    blocks: list[bytes]
    good: int


def item_of(number: int, file: File, bundle: int) -> WriteItem:
    data = file.data(number)
    record = FileRecord(
        file_id=number, path=f"/exp/f{number}", size=len(data), adler32=adler32_text(adler32(data)), mtime_ns=10**18,
        mode=0o644, owner="alice", group="hall", storage_class="one",
    )  # fmt: skip
    return WriteItem(archive_id=number, copy_number=1, replica_id=number, record=record, cache_url="", bundle=bundle)


def fetch(
    files: dict[int, File], groups: list[list[int]], block_size: int, piece: int, frame: int, sends_max: int = 1000
) -> tuple[list[Taped], dict[int, str]]:
    """What the thread of the drive would make of it: tape files, and the codes of what was refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetchers, "BulkRequest", lambda url: Replies(files, piece, frame, sends_max))
        patch.setattr(fetchers, "FILES_ASKED_MAX", 4)
        fetcher = CacheFetcher("http://memory/", block_size)
        for number, group in enumerate(groups):
            bundle = number + 1 if len(group) > 1 else 0
            fetcher.add([part_of(item_of(one, files[one], bundle), LOAD) for one in group])
        taped: list[Taped] = []
        refused: dict[int, str] = {}
        over = 0
        while over < len(groups):
            message = fetcher.get(10)
            match message:
                case Begun():
                    taped.append(Taped(message, [], 0))
                case Block():
                    taped[-1].blocks.append(bytes(message.buffer[: message.length]))
                    taped[-1].good = message.good
                    message.buffer[:] = b"\xff" * len(message.buffer)  # what is given back may hold anything
                    fetcher.give_back(message.buffer)
                case Ended():
                    assert taped[-1].good == message.good, "the blocks of the good files are out"
                    if message.error is not None:
                        refused[taped[-1].begun.parts[message.good].item.archive_id] = message.error.code
                case Refused():
                    refused.update((item.archive_id, message.error.code) for item in message.items)
                case Over():
                    over += 1
                case None:
                    raise AssertionError("the fetcher says nothing")
        fetcher.close()
    return taped, refused


def check(one: Taped, tape_file: int, block_size: int) -> list[int]:
    """The good files of a tape file as tarfile, the list and the offsets tell of them: they must agree."""
    assert all(len(block) == block_size for block in one.blocks[:-1])
    if one.good == 0:
        return []  # ABORTED: nobody reads it
    data, layout, parts = bytearray(b"".join(one.blocks)), one.begun.layout, one.begun.parts
    assert len(data) <= layout.archive_bytes
    if layout.list_data:
        headers = pax.build_own(
            list_member(
                layout, volume="A00001", generation=3, catalog_id=CATALOG_ID, tape_file=tape_file, mtime_ns=10**18
            )
        )
        data[: len(headers)] = headers
        listed = parse_list(bytes(data[len(headers) :][: len(layout.list_data)]))
        assert [(entry.file_id, entry.offset) for entry in listed] == [
            (part.item.record.file_id, offset) for part, offset in zip(parts, layout.offsets, strict=True)
        ]
    found: list[bytes] = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        try:
            for info in tar:
                extracted = tar.extractfile(info)
                assert extracted is not None
                if info.name.startswith("exp/"):
                    assert info.offset_data == layout.offsets[len(found)]
                    found.append(extracted.read())
        except tarfile.ReadError:
            assert len(found) >= one.good, "only behind the good files may the archive break off"
    good = [part.item for part in parts[: one.good]]
    assert [adler32_text(adler32(content)) for content in found[: one.good]] == [item.record.adler32 for item in good]
    return [item.archive_id for item in good]


sizes = st.one_of(st.integers(0, 40), st.sampled_from([0, 511, 512, 513, 1024, 4096]), st.integers(0, 6000))
fates = st.sampled_from([*(["good"] * 8), *WRONG])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.builds(File, size=sizes, fate=fates), min_size=1, max_size=12),
    st.lists(st.integers(1, 6), max_size=4),
    st.sampled_from([512, 700, 1536, 4096, 65_536]),
    st.integers(1, 9000),
    st.integers(1, 5000),
)
@example(
    # More wrong ones in a row than are asked for at once: those behind them are asked for all the same.
    listed=[File(0, "good"), *([File(0, "absent")] * 9), File(9, "good")],
    cuts=[],
    block_size=512,
    piece=1,
    frame=1,
)
def test_what_is_called_good_is_what_a_reader_of_the_tape_finds(listed, cuts, block_size, piece, frame):
    files = dict(enumerate(listed, 1))
    numbers, groups = list(files), []
    for cut in [*cuts, len(numbers)]:
        groups.append(numbers[:cut])
        numbers = numbers[cut:]
    groups = [group for group in groups if group]
    taped, refused = fetch(files, groups, block_size, piece, frame)
    good = [number for at, one in enumerate(taped, 1) for number in check(one, at, block_size)]
    assert good == [number for number, file in files.items() if file.right]
    assert sorted(refused) == sorted(set(files) - set(good)), "every file is either good or refused"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(sizes, min_size=1, max_size=8),
    st.integers(0, 7),
    st.sampled_from([512, 1536, 4096, 65_536]),
    st.integers(1, 9000),
)
def test_a_stream_that_breaks_keeps_what_came_before(listed, breaks_at, block_size, piece):
    files = {number: File(size, "good") for number, size in enumerate(listed, 1)}
    broken = 1 + breaks_at % len(files)
    files[broken] = File(files[broken].size, "stream breaks")
    taped, refused = fetch(files, [list(files)], block_size, piece, 4000)
    good = [number for at, one in enumerate(taped, 1) for number in check(one, at, block_size)]
    assert good == list(range(1, broken))
    assert sorted(refused) == list(range(broken, len(files) + 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=20), st.integers(0, 6), st.integers(1, 9000))
def test_a_server_that_takes_no_more_questions_costs_only_what_it_was_not_asked(listed, sends_max, piece):
    files = {number: File(size, "good") for number, size in enumerate(listed, 1)}
    taped, refused = fetch(files, [list(files)[:7], list(files)[7:]] if listed[7:] else [list(files)], 4096, piece,
        4000, sends_max)  # fmt: skip
    good = [number for at, one in enumerate(taped, 1) for number in check(one, at, 4096)]
    assert good == list(range(1, len(good) + 1))
    assert sorted(refused) == list(range(len(good) + 1, len(files) + 1))


def test_the_last_file_of_a_very_large_bundle_lies_where_its_list_says():
    files = dict.fromkeys(range(1, MEMBERS_MAX // 10), File(10, "good"))
    taped, refused = fetch(files, [list(files)], 65_536, 100_000, 4000)
    assert [len(check(one, at, 65_536)) for at, one in enumerate(taped, 1)] == [len(files)]
    assert not refused

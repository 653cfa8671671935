"""Promises of gathering: a trickle makes bundles, by size, number and age, and nobody who waits is kept waiting."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from catalog.archives import ClaimedArchive
from catalog.model import FileRecord
from tapeserver.bundling import MEMBER_OVERHEAD_BYTES, Limits
from tapeserver.gathering import Gathering

LIMITS = Limits(member_bytes_max=100_000, bytes_max=200_000, files_max=100)
SECONDS = 10.0


def archive(
    number: int, size: int = 1000, *, key: str = "dir:1", urgent: bool = False, age: float = 0.0
) -> ClaimedArchive:
    record = FileRecord(
        file_id=number, path=f"/f{number}", size=size, adler32="00000001", mtime_ns=0, mode=0o644, owner="a",
        group="g", storage_class="one",
    )  # fmt: skip
    return ClaimedArchive(
        archive_id=number, file=record, copy_number=1, attempts=0, replica_id=number, cache_server="c", cache_url="u",
        collocation=key, urgent=urgent, age_seconds=age,
    )  # fmt: skip


def numbers(ready: list[list[ClaimedArchive]]) -> list[list[int]]:
    return [[one.archive_id for one in members] for members in ready]


def trickle(gathering: Gathering, *, files: int, per_second: int) -> Iterator[list[list[int]]]:
    """So many files, taken in as they come; the tape files of each second."""
    for second in range(files // per_second):
        gathering.add((archive(second * per_second + one) for one in range(per_second)), float(second))
        yield numbers(gathering.take(float(second)))


def test_a_trickle_to_an_idle_mover_makes_a_bundle_each_so_many_seconds_and_not_each_look() -> None:
    limits = Limits(member_bytes_max=64 * 1024**2, bytes_max=4 * 1024**3, files_max=5000)
    gathering = Gathering(limits, seconds=SECONDS)
    written = [members for ready in trickle(gathering, files=3600, per_second=40) for members in ready]
    written += numbers(gathering.take(1000.0))
    assert [len(members) for members in written] == [440] * 8 + [80]
    assert [one for members in written for one in members] == list(range(3600))


def test_a_bundle_that_is_full_does_not_wait_and_what_is_left_over_does() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add((archive(number, 10) for number in range(230)), 0.0)
    assert [len(members) for members in gathering.take(0.0)] == [100, 100]
    assert (len(gathering), gathering.take(9.9)) == (30, [])
    assert numbers(gathering.take(10.0)) == [list(range(200, 230))]
    assert len(gathering) == 0


def test_bytes_fill_a_bundle_too() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add((archive(number, 90_000) for number in range(2)), 0.0)
    assert gathering.take(0.0) == []
    gathering.add([archive(2, 90_000)], 0.0)
    assert numbers(gathering.take(0.0)) == [[0, 1]]


def test_large_files_wait_for_nothing_and_close_no_bundle() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add([archive(1), archive(2, 500_000)], 0.0)
    assert numbers(gathering.take(0.0)) == [[2]]
    gathering.add([archive(3), archive(4, 500_000)], 1.0)
    assert numbers(gathering.take(1.0)) == [[4]]
    assert numbers(gathering.take(10.0)) == [[1, 3]]


def test_what_was_queued_long_ago_waits_no_longer_and_takes_the_young_ones_along() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add([archive(1, age=3600.0), archive(2)], 0.0)
    assert numbers(gathering.take(0.0)) == [[1, 2]]


def test_a_clock_set_back_makes_nothing_wait_longer_than_the_policy_says() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add([archive(1, age=-3600.0)], 0.0)
    assert numbers(gathering.take(10.0)) == [[1]]


def test_urgent_files_go_at_once_and_leave_the_others_to_their_bundle() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add([archive(1, urgent=True), archive(2)], 0.0)
    assert numbers(gathering.take(0.0)) == [[1]]
    gathering.add([archive(3), archive(4)], 1.0)
    gathering.hurry({3, 77})
    ready = gathering.take(1.0)
    assert numbers(ready) == [[3]]
    assert ready[0][0].urgent, "it has a flush of its own behind it"
    assert gathering.archive_ids == [2, 4]


def test_what_came_later_joins_its_group() -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    gathering.add([archive(1, key="a"), archive(2, key="b")], 0.0)
    assert gathering.take(0.0) == []
    gathering.add([archive(3, key="b"), archive(4, key="a")], 1.0)
    assert numbers(gathering.take(10.0)) == [[1, 4, 2, 3]]


def test_without_a_wait_everything_goes_at_once() -> None:
    gathering = Gathering(LIMITS, seconds=0.0)
    gathering.add([archive(1), archive(2)], 5.0)
    assert numbers(gathering.take(5.0)) == [[1, 2]]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 150_000), st.sampled_from("abc"), st.booleans()), max_size=40), max_size=12
    )
)
def test_each_archive_goes_once_and_within_its_time(claims: list[list[tuple[int, str, bool]]]) -> None:
    gathering = Gathering(LIMITS, seconds=SECONDS)
    came: dict[int, float] = {}
    went: dict[int, float] = {}
    for now in [float(2 * number) for number in range(len(claims))] + [1000.0]:
        claim = claims[int(now / 2)] if now < 1000 else []
        fresh = [archive(len(came) + at, size, key=key, urgent=u) for at, (size, key, u) in enumerate(claim)]
        came.update({one.archive_id: now for one in fresh})
        gathering.add(fresh, now)
        for members in gathering.take(now):
            assert len(members) == 1 or sum(one.file.size + MEMBER_OVERHEAD_BYTES for one in members) <= 200_000
            for one in members:
                assert one.archive_id not in went
                went[one.archive_id] = now
    assert went.keys() == came.keys()
    assert all(went[one] - came[one] <= SECONDS for one in came if went[one] < 1000)

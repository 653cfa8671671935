"""How fast a stage request of 10,000 files is accepted, and how fast a job is released after its last input.

The peer of the first copies the same rows into a table of the same shape, with its indexes, in one transaction. The
second has no peer: both instants are the database's own, so nothing of the looking is in it.
"""

from __future__ import annotations

import time

from bench.measure import PAIRS, Row, interleaved
from bench.workplace import Workplace
from catalog.units import KIB

BUDGET_SECONDS = 60.0
_COLUMNS = ("request", "number", "path", "file", "state", "lifetime_seconds")


# A put of each would take minutes. For the request they are what 10,000 puts would have made: names, files, copies.
_CLONE = """
with seed as (select f.id, n.parent from file f join node n on n.id = f.node where n.name = $1),
     names as (insert into node (parent, name, kind)
               select parent, to_char(number, 'FM000000'), 'file' from seed, generate_series(1, $2::int) as number
               returning id, name),
     files as (insert into file (node, size, adler32, mtime_ns, mode, owner, grp, storage_class, stored_path)
               select names.id, f.size, f.adler32, f.mtime_ns, f.mode, f.owner, f.grp, f.storage_class, f.stored_path
               from names, seed join file f on f.id = seed.id
               returning id),
     copies as (insert into copy
                (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch)
                select files.id, c.copy_number, c.volume, c.generation, c.tape_file, c.first_block, c.byte_offset,
                       c.length, c.epoch
                from files, seed join copy c on c.file = seed.id
                returning id)
select count(*) from copies
"""


def run_request(place: Workplace) -> list[Row]:
    """10,000 names that are on tape alone, cloned in the catalog from one file that was really put and written."""
    number = 1_000 if place.quick else 10_000
    seed = place.make_file("seed", 10 * KIB)
    place.site.run(["tput", str(seed), "/bench-stage/seed"])
    place.drop("/bench-stage")
    paths = [f"/bench-stage/{at:06}" for at in range(1, number + 1)]
    # With a library at work the recalls of one round would run into the next.
    place.libraries("down")
    with place.look() as look:
        assert look.value(_CLONE, "seed", number) == number
        look.execute("create table if not exists bench_item (like stage_item including all)")

        def ours(at: int) -> float:
            began = time.perf_counter()
            request = place.stage(paths)
            took = time.perf_counter() - began
            resolved = "select count(*) = 0 from stage_item where request = $1 and state = 'submitted' and file is null"
            place.wait(lambda: bool(look.value(resolved, int(request))), "the request to be resolved")
            place.end_request(request)
            place.wait(lambda: look.value("select count(*) from recall") == 0, "the recalls to be gone")
            return took

        def peer(at: int) -> float:
            rows = [(at + 1, row, path, None, "submitted", 3600.0) for row, path in enumerate(paths)]
            began = time.perf_counter()
            look.copy("bench_item", _COLUMNS, rows)
            return time.perf_counter() - began

        pairs = interleaved(ours, peer, rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
        look.execute("drop table bench_item")
    place.libraries("up")
    name = f"stage request of {number:,} files accepted"
    return [
        Row(name=name, value=pairs.value, unit="s", peer=pairs.peer, of="value", at_most=2.0, note=pairs.note),
        Row(
            name=f"{name}, beside COPY of its rows",
            value=pairs.value,
            unit="s",
            peer=pairs.peer,
            at_most=4.0,
            note="the same rounds",
        ),
    ]


def run_release(place: Workplace) -> list[Row]:
    source = place.make_small_files(place.scratch / "release", PAIRS + 1, 10 * KIB)
    place.site.run(["tput", "-r", str(source), "/bench-release"])
    place.drop("/bench-release")
    names = sorted(path.name for path in source.iterdir())
    with place.look() as look:

        def ours(at: int) -> float:
            body = {"argv": ["true"], "name": f"bench-{at}", "inputs": [f"/bench-release/{names[at]}"]}
            job = int(place.site.call("POST", "/api/jobs/v1/jobs", body)["job_id"])
            released = "select released_at is not null from jobs.job where id = $1"
            place.wait(lambda: bool(look.value(released, job)), f"job {job} to be released", pause_seconds=0.01)
            waited = look.value(
                "select extract(epoch from j.released_at - max(r.created_at))::float8 from jobs.job j"
                " join jobs.job_input i on i.job = j.id join replica r on r.file = i.file"
                " where j.id = $1 group by j.released_at",
                job,
            )
            ended = "select ended_at is not null from jobs.job where id = $1"
            place.wait(lambda: bool(look.value(ended, job)), f"job {job} to end")
            return float(waited)

        rounds = interleaved(ours, None, rounds=PAIRS, budget_seconds=BUDGET_SECONDS)
    return [
        Row(
            name="last input on disk to job released",
            value=rounds.value,
            unit="s",
            of="value",
            at_most=1.0,
            note=rounds.note,
        )
    ]

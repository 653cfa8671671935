"""`capstan simulate`: what would the drives do with these requests, under this policy, on that hardware?

It asks no server and changes nothing: the planner, the order of reads and the drive model run here, in virtual time.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capstan.commands.common import add_json, parser_for, print_json, print_table
from catalog.units import show_seconds
from client.cli.common import USAGE, counted, ending, seconds_argument

if TYPE_CHECKING:
    from tapeserver.simulator.running import Question
    from tapeserver.simulator.trace import Trace

EXAMPLE = """capstan simulate --generate farm --drives 8,10 --policy capstan,oldest-first
  capstan simulate --trace site.jsonl.gz --drives 8 --media LTO-8,LTO-9 --svg what-if.svg"""
#: combinations of drives, media, policies and times in one command
RUNS_MAX = 64
DRIVES_MAX = 1000
REQUESTS, REQUESTS_MAX = 10_000, 2_000_000
#: for so many files it is worth to load the compiled loops of the order, or to compile them the first time
COMPILED_FILES = 20_000
LOAD, LOAD_MAX = 1.0, 10.0
NOISE_MAX = 1.0


def run(command: str, words: Sequence[str]) -> int:
    # Imported here and below: `--help` should not pay for numpy, but the names of policies are part of it.
    from tapeserver.simulator.generator import KINDS
    from tapeserver.simulator.running import POLICIES

    parser = parser_for(
        command,
        "Run a trace of requests against drives in virtual time. Options that take lists are run in every combination.",
        EXAMPLE,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path, metavar="FILE", help="requests, as docs/simulator.md has them; .gz too")
    source.add_argument("--generate", choices=KINDS, metavar="KIND", help=f"made requests: {', '.join(KINDS)}")
    _add_generating(parser)
    _add_questions(parser, list(POLICIES))
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a chart into it")
    add_json(parser)
    parsed = parser.parse_args(words)
    runs = len(parsed.drives) * len(parsed.media) * len(parsed.policy) * len(parsed.quiet_time) * len(parsed.deadline)
    if parsed.trace and (parsed.save_trace or parsed.requests or parsed.load):
        parser.error("--requests, --load and --save-trace are of made requests: they go with --generate")
    if runs > RUNS_MAX:
        parser.error(f"these are {runs} combinations; one command runs at most {RUNS_MAX}")
    return ending("capstan", lambda: _carry_out(parsed), as_json=parsed.json)


def _add_generating(parser: argparse.ArgumentParser) -> None:
    made = parser.add_argument_group("made requests")
    made.add_argument("--requests", type=_number(1, REQUESTS_MAX), metavar="N", help=f"so many (default {REQUESTS})")
    made.add_argument(
        "--load", type=_real(0.001, LOAD_MAX), metavar="X",
        help=f"work offered over what the first number of drives could do if no mount were shared (default {LOAD})",
    )  # fmt: skip
    made.add_argument("--save-trace", type=Path, metavar="FILE", help="write the requests into a trace")


def _add_questions(parser: argparse.ArgumentParser, policies: list[str]) -> None:
    asked = parser.add_argument_group("what if (lists: every combination)")
    asked.add_argument(
        "--drives", type=_several(_number(1, DRIVES_MAX)), default=[8], metavar="N,…", help="how many (default 8)"
    )
    asked.add_argument(
        "--media", type=_several(_medium), default=[None], metavar="NAME,…",
        help="LTO-9, TS1170, …: every volume is such a one; else as the trace says",
    )  # fmt: skip
    asked.add_argument(
        "--policy", type=_several(_one_of(policies)), default=policies[:1], metavar="NAME,…",
        help=f"who decides what is mounted: {', '.join(policies)} (default {policies[0]})",
    )  # fmt: skip
    asked.add_argument(
        "--quiet-time", type=_several(seconds_argument), default=[None], metavar="TIME,…",
        help="a volume is mounted when nobody has asked for more of it for so long; else as the policy has it",
    )  # fmt: skip
    asked.add_argument(
        "--deadline", type=_several(seconds_argument), default=[None], metavar="TIME,…",
        help="whatever has waited so long comes first; else as the policy has it",
    )  # fmt: skip
    asked.add_argument("--seed", type=_number(0, 2**63 - 1), default=0, metavar="N", help="of all chance (default 0)")
    asked.add_argument(
        "--noise", type=_real(0.0, NOISE_MAX), default=0.0, metavar="SIGMA",
        help="how much locates scatter, lognormal; real drives do by about 0.1 (default %(default)s)",
    )  # fmt: skip
    asked.add_argument(
        "--estimates", type=_number(0, REQUESTS_MAX), default=0, metavar="N",
        help="at every Nth arrival ask when it is expected to be done, and tell how far off that was (default: not)",
    )  # fmt: skip


def _carry_out(parsed: argparse.Namespace) -> int:
    from tapeserver.ordering import warm_up
    from tapeserver.simulator.chart import chart
    from tapeserver.simulator.policy import Stuck
    from tapeserver.simulator.report import ARCHIVE_COLUMNS, COLUMNS, ESTIMATE_COLUMNS, Run, rows
    from tapeserver.simulator.running import answer
    from tapeserver.simulator.trace import BadTrace

    for path in (parsed.svg, parsed.save_trace):
        if path and not path.absolute().parent.is_dir():
            # Said before the runs, which may take minutes.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        trace = _trace(parsed)
        if trace.files >= COMPILED_FILES:
            warm_up()
        runs = [Run(label=_label(one, parsed), question=one, outcome=answer(trace, one)) for one in _questions(parsed)]
    except (BadTrace, Stuck) as problem:
        detail = f"{parsed.trace or parsed.generate}: {problem}"
        if parsed.json:
            print_json({"items": [], "error": {"code": "bad_trace", "detail": detail}})
        print(f"capstan: {detail}", file=sys.stderr)
        return USAGE
    title = _title(parsed, trace)
    if parsed.svg:
        parsed.svg.write_text(chart(runs, title), encoding="utf-8")
    if parsed.json:
        print_json({"trace": _trace_facts(parsed, trace), "runs": [one.as_json() for one in runs]})
    else:
        table = rows(runs)
        more = {**ARCHIVE_COLUMNS, **ESTIMATE_COLUMNS}
        print_table(title, table, COLUMNS | {name: more[name] for name in more if any(row[name] for row in table)})
    return 0


def _trace(parsed: argparse.Namespace) -> Trace:
    from tapeserver.simulator.generator import KINDS, generate
    from tapeserver.simulator.tracefile import read_trace, write_trace

    if parsed.trace:
        return read_trace(parsed.trace)
    made = generate(
        KINDS[parsed.generate], seed=parsed.seed, requests=parsed.requests or REQUESTS, drives=parsed.drives[0],
        load=parsed.load or LOAD,
    )  # fmt: skip
    if parsed.save_trace:
        write_trace(made, parsed.save_trace, note=f"generated: {parsed.generate}, seed {parsed.seed}")
    return made


def _questions(parsed: argparse.Namespace) -> Iterator[Question]:
    from tapeserver.simulator.running import Question

    for drives, medium, quiet, deadline, policy in itertools.product(
        parsed.drives, parsed.media, parsed.quiet_time, parsed.deadline, parsed.policy
    ):
        yield Question(
            policy=policy,
            drives=drives,
            medium=medium,
            quiet_seconds=quiet,
            deadline_seconds=deadline,
            seed=parsed.seed,
            noise=parsed.noise,
            estimate_every=parsed.estimates,
        )


def _label(question: Question, parsed: argparse.Namespace) -> str:
    """The policy, and whatever the runs differ in."""
    words = [question.policy]
    if len(parsed.drives) > 1:
        words.append(counted(question.drives, "drive"))
    if len(parsed.media) > 1:
        words.append(question.medium or "")
    if len(parsed.quiet_time) > 1 and question.quiet_seconds is not None:
        words.append(f"quiet {show_seconds(question.quiet_seconds)}")
    if len(parsed.deadline) > 1 and question.deadline_seconds is not None:
        words.append(f"deadline {show_seconds(question.deadline_seconds)}")
    return ", ".join(words)


def _title(parsed: argparse.Namespace, trace: Trace) -> str:
    what = [f"{counted(trace.requests, 'request')} of {counted(trace.files, 'file')}"] if trace.requests else []
    what += [f"{counted(trace.archives, 'file')} to be written"] if trace.archives else []
    words = [f"{' and '.join(what) or 'nothing'} in {show_seconds(trace.seconds)}"]
    if len(parsed.drives) == 1:
        words.append(counted(parsed.drives[0], "drive"))
    if len(parsed.media) == 1 and parsed.media[0]:
        words.append(parsed.media[0])
    return ", ".join(words)


def _trace_facts(parsed: argparse.Namespace, trace: Trace) -> dict[str, Any]:
    return {
        "name": str(parsed.trace) if parsed.trace else parsed.generate,
        "requests": trace.requests,
        "files": trace.files,
        "volumes": len(trace.volumes),
        "archives": trace.archives,
        "seconds": round(trace.seconds, 3),
    }


def _several(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        found = [one(word.strip()) for word in text.split(",") if word.strip()]
        if not found:
            raise argparse.ArgumentTypeError("give at least one")
        return list(dict.fromkeys(found))

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def _real(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return parse


def _one_of(names: list[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no policy {text!r}; there are {', '.join(names)}")
        return text

    return parse


def _medium(text: str) -> str:
    from tapeserver.drivemodel import model_of

    try:
        return model_of(text).name
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc

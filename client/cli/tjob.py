"""tjob: jobs that wait for their input files outside the batch slots."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from catalog.errors import CapstanError
from catalog.units import show_about, show_bytes, show_seconds
from client.cli.common import (
    DONE,
    FAILED,
    Results,
    add_json,
    add_timeout,
    complain,
    make_parser,
    plain,
    print_json,
    run,
)
from client.cli.display import Display

if TYPE_CHECKING:
    from client.jobmessages import Job
    from client.jobs import Stream
    from client.session import Session

_EXAMPLES = (
    "tjob submit --input '/exp/run7/*.dat' -- ./run.sh       held until its inputs are on disk",
    "tjob submit --input /exp/f --wait -- sh -c 'wc -c < f'  its output, its exit code",
    "tjob list                                               one's jobs",
    "tjob show 12                                            what it waits for, how it ended",
    "tjob output 12 --follow                                 what it writes, as it writes it",
    "tjob cancel 12        tjob wait 12",
)
_VERB_EXAMPLES = {
    "submit": "tjob submit --input '/exp/run7/*.dat' --wait -- ./run.sh",
    "list": "tjob list --state held",
    "show": "tjob show 12",
    "cancel": "tjob cancel 12",
    "output": "tjob output 12 --follow",
    "wait": "tjob wait 12 13 --timeout 2h",
}

Command = Callable[["Session", argparse.Namespace], Awaitable[int]]


def parser() -> argparse.ArgumentParser:
    made = make_parser("tjob", "Submit jobs with input files, and look after them.", _EXAMPLES)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="submit|list|show|cancel|output|wait")
    submit = _verb(verbs, "submit", "submit a job: tjob submit [options] -- COMMAND [ARGUMENT...]")
    submit.add_argument("--input", action="append", default=[], metavar="GLOB", help="input files; may be repeated")
    submit.add_argument("--name", default="", help="what lists show")
    submit.add_argument("--priority", type=int, default=0, help="higher goes first among one's own (default 0)")
    submit.add_argument("--whole-volumes", action="store_true", default=None, help="stage all of each tape it needs")
    submit.add_argument("--wait", action="store_true", help="copy its output and end with its exit code")
    submit.set_defaults(command=_submit)
    shown = _verb(verbs, "list", "jobs, newest last")
    shown.add_argument("--state", help="only those in this state, such as held or running")
    shown.set_defaults(command=_list)
    _of_jobs(_verb(verbs, "show", "all about a job"), _show)
    _of_jobs(_verb(verbs, "cancel", "end a job, or never start it"), _cancel)
    output = _verb(verbs, "output", "what a job wrote")
    output.add_argument("job", type=int, metavar="ID")
    output.add_argument("--stderr", action="store_true", help="its stderr, not its stdout")
    output.add_argument("--follow", action="store_true", help="go on until the job ends")
    output.set_defaults(command=_output)
    wait = _verb(verbs, "wait", "until jobs have ended; exit 0 if all were done well")
    add_timeout(wait, "at most so long")
    _of_jobs(wait, _wait)
    for name, verb in verbs.choices.items():
        add_json(verb, below=True)
        verb.epilog = f"example:\n  {_VERB_EXAMPLES[name]}"
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
    return made


def _verb(verbs: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return parser


def _of_jobs(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument("jobs", type=int, nargs="+", metavar="ID")
    parser.set_defaults(command=command)


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    # Everything behind -- is the job's: argparse would take its options for ours.
    split = given.index("--") if "--" in given else len(given)
    made = parser()
    arguments = made.parse_args(given[:split])
    arguments.argv = given[split + 1 :]
    if arguments.verb == "submit" and not arguments.argv:
        made.error("the command goes behind --, as in: tjob submit --input /exp/f -- ./run.sh")
    if arguments.verb != "submit" and arguments.argv:
        made.error(f"{arguments.verb} takes nothing behind --")
    if arguments.argv:
        arguments.argv[0] = _absolute(arguments.argv[0])
    return run(made, arguments, arguments.command)


def _absolute(program: str) -> str:
    """`./run.sh` is meant from here, and the job starts in an empty directory of its own."""
    return os.path.abspath(program) if "/" in program and os.path.exists(program) else program


async def _submit(session: Session, arguments: argparse.Namespace) -> int:
    job_id = await session.jobs.submit(
        arguments.argv,
        inputs=arguments.input,
        name=arguments.name,
        priority=arguments.priority,
        whole_volumes=arguments.whole_volumes,
    )
    if not arguments.wait:
        if arguments.json:
            print_json({"items": [{"job_id": job_id, "ok": True}]})
        else:
            print(job_id)
        return DONE
    arguments.interrupted = f"interrupted; job {job_id} goes on, and `tjob cancel {job_id}` ends it"
    return await _until_ended(session, job_id, arguments)


async def _until_ended(session: Session, job_id: int, arguments: argparse.Namespace) -> int:
    """Copy the job's output (with --json its document instead) and end as it ended."""
    from client.jobs import Stream, exit_code_of

    with Display(f"job {job_id}") as display:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(session.jobs.wait(job_id, on_waiting=display.waiting))
            if not arguments.json:
                group.create_task(_copy(session, job_id, Stream.STDOUT, sys.stdout.buffer))
                group.create_task(_copy(session, job_id, Stream.STDERR, sys.stderr.buffer))
    job = waiting.result()
    if arguments.json:
        print_json({"items": [job]})
    code = exit_code_of(job)
    # A command that says itself why it failed needs no second line; one that never ran could not.
    if job.state != "done" and job.reason != f"it ended with exit code {job.exit_code}":
        complain("tjob", f"job {job_id} {job.state}" + (f": {job.reason}" if job.reason else ""))
    return code


async def _copy(session: Session, job_id: int, stream: Stream, target: BinaryIO) -> None:
    async for content in session.jobs.output(job_id, stream, follow=True):
        target.write(content)
        target.flush()


async def _list(session: Session, arguments: argparse.Namespace) -> int:
    jobs = [job async for job in session.jobs.list(state=arguments.state)]
    if arguments.json:
        print_json({"items": jobs})
    elif jobs:
        print(f"{'ID':>6} {'STATE':<10} {'INPUTS':>11} {'EXPECTED IN':<13}  NAME")
        for job in jobs:
            inputs = f"{job.inputs.on_disk}/{job.inputs.total}"
            when = "" if job.expected_seconds is None else show_about(job.expected_seconds)
            name = plain(job.name or " ".join(job.argv))[:100]
            print(f"{job.id:>6} {job.state:<10} {inputs:>11} {when:<13}  {name}")
    return DONE


async def _show(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tjob")
    jobs = []
    for job_id in arguments.jobs:
        try:
            job = await session.jobs.get(job_id)
        except CapstanError as exc:
            results.failed(exc, job_id=job_id)
            continue
        results.done(job_id=job_id)
        jobs.append(job)
        if not arguments.json:
            _print_job(job)
    if arguments.json:
        print_json(_document(jobs, results))
    return results.exit_code


def _document(jobs: list[Job], results: Results) -> dict[str, object]:
    failed = [item for item in results.items if not item["ok"]]
    return {"items": jobs, **({"errors": failed} if failed else {})}


def _print_job(job: Job) -> None:
    print(f"job {job.id}: {job.state}" + (f" ({plain(job.reason)})" if job.reason else ""))
    print(f"  name      {plain(job.name)}\n  owner     {plain(job.owner)}\n  command   {plain(' '.join(job.argv))}")
    print(f"  inputs    {job.inputs.on_disk} of {job.inputs.total} on disk, {show_bytes(job.inputs.bytes)}")
    if job.volumes:
        print(f"  volumes   {', '.join(job.volumes)}")
    steps = (("waited", job.submitted_at, job.started_at), ("ran", job.started_at, job.ended_at))
    for what, begin, end in steps:
        if begin is not None and end is not None:
            print(f"  {what:<9} {show_seconds(end - begin)}")
    if job.signal is not None:
        print(f"  ended     by signal {job.signal}")
    elif job.exit_code is not None:
        print(f"  ended     with exit code {job.exit_code}")
    for sentence in job.waiting:
        print(f"  waits     {plain(sentence)}")


async def _cancel(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tjob")
    for job_id in arguments.jobs:
        try:
            await session.jobs.cancel(job_id)
        except CapstanError as exc:
            results.failed(exc, job_id=job_id)
        else:
            results.done(job_id=job_id)
    return results.report(as_json=arguments.json)


async def _output(session: Session, arguments: argparse.Namespace) -> int:
    from client.jobs import Stream

    stream = Stream.STDERR if arguments.stderr else Stream.STDOUT
    pieces = session.jobs.output(arguments.job, stream, follow=arguments.follow)
    if not arguments.json:
        async for content in pieces:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        return DONE
    whole = []
    async for content in pieces:
        text = content.decode("utf-8", "replace")
        if arguments.follow:
            print_json({"job_id": arguments.job, "stream": stream, "text": text})
        whole.append(text)
    if not arguments.follow:
        print_json({"items": [{"job_id": arguments.job, "stream": stream, "text": "".join(whole)}]})
    return DONE


async def _wait(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tjob")
    jobs: list[Job] = []
    with Display("jobs") as display:
        for job_id in arguments.jobs:
            try:
                jobs.append(
                    await session.jobs.wait(job_id, timeout_seconds=arguments.timeout, on_waiting=display.waiting)
                )
            except CapstanError as exc:
                results.failed(exc, job_id=job_id)
            else:
                results.done(job_id=job_id)
    if arguments.json:
        print_json(_document(jobs, results))
    for job in jobs:
        if job.state != "done":
            complain("tjob", f"job {job.id} {job.state}" + (f": {job.reason}" if job.reason else ""))
    return results.exit_code or (DONE if all(job.state == "done" for job in jobs) else FAILED)


if __name__ == "__main__":
    sys.exit(main())

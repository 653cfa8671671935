"""What the user commands share: arguments, exit codes, one error line, one JSON document, how a command is run.

The library is imported only when a command has something to do: `--help` and a wrong option answer at once.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog.errors import CapstanError, Denied, NotFound, Refused, TimedOut, Unauthenticated
from catalog.units import parse_seconds

if TYPE_CHECKING:
    from client.session import Session

DONE, FAILED, USAGE, PARTLY, NOT_FOUND, DENIED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130
PARALLEL_MAX = 64

_EXIT_CODES = """
exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 4 not found, 5 denied, 6 timed out
CAPSTAN_URL names the doors; CAPSTAN_TOKEN or CAPSTAN_TOKEN_FILE the token. After `capstan up` on one's own machine
neither is needed."""

#: code of an error -> what to do about it
_HINTS = {
    "door_unreachable": "is the server running (`capstan up`), and is CAPSTAN_URL right?",
    "unauthenticated": "set CAPSTAN_TOKEN or CAPSTAN_TOKEN_FILE",
    "denied": "ask for a token that grants it",
    "exists": "choose another name, or replace a file with --force (tput, tmv)",
    "parent_missing": "make it first, as with `tmkdir -p`",
    "timed_out": "ask again later",
    "no_space": "try again later; `capstan cache` shows the space, `capstan status` what is not safe on tape yet",
    "unsafe": "--force does it all the same",
    "not_empty": "say -r to remove what it holds",
}


class UsageError(Exception):
    """The arguments do not fit together; exit code 2."""


def make_parser(name: str, summary: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    shown = "\n".join(f"  {example}" for example in examples)
    parser = argparse.ArgumentParser(
        prog=name,
        description=summary,
        epilog=f"examples:\n{shown}\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json(parser)
    return parser


def add_json(parser: argparse.ArgumentParser, *, below: bool = False) -> None:
    """`below`: for the parser of a verb, whose default would overwrite a --json given before the verb."""
    default = argparse.SUPPRESS if below else False
    parser.add_argument("--json", action="store_true", default=default, help="print one JSON document instead of text")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Options may stand between names: `tput f g --wait /exp/`."""
    given = sys.argv[1:] if argv is None else list(argv)
    # What is behind -- are names; argparse loses them when it lets options stand between.
    return parser.parse_args(given) if "--" in given else parser.parse_intermixed_args(given)


def add_parallel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-j", "--parallel", type=_parallel, default=4, metavar="N", help="transfers at a time (default %(default)s)"
    )


def add_timeout(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--timeout", type=_seconds, metavar="TIME", help=f"{what}, such as 90, 10min or 2h; then exit 6"
    )


def _parallel(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= PARALLEL_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {PARALLEL_MAX}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


seconds_argument = _seconds


def run(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    command: Callable[[Session, argparse.Namespace], Awaitable[int]],
) -> int:
    """Run a command in a session; its exit code. All errors end here as one line on stderr."""
    return ending(
        parser.prog.partition(" ")[0],
        lambda: asyncio.run(_in_session(command, arguments)),
        as_json=bool(arguments.json),
        interrupted=lambda: str(getattr(arguments, "interrupted", "")),
    )


def ending(
    name: str, work: Callable[[], int], *, as_json: bool = False, interrupted: Callable[[], str] = lambda: ""
) -> int:
    """The exit code of `work`; whatever it raises becomes one line on stderr, and a JSON document when one is due."""
    _standard_streams()
    # Nothing is collected at the end of a process: a third of a second for a server, a tenth for a command.
    atexit.register(gc.freeze)
    try:
        return work()
    except UsageError as exc:
        if as_json:
            _last_words({"items": [], "error": {"code": "usage", "detail": str(exc)}})
        complain(name, str(exc))
        print(f"{name}: `{name} --help` shows how", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        complain(name, interrupted() or "interrupted")
        return INTERRUPTED
    except asyncio.CancelledError:
        complain(name, "ended by SIGTERM")
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # The reader of our output left; the interpreter must not complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (CapstanError, OSError, ExceptionGroup) as exc:
        error = first_error(exc)
        if as_json:
            _last_words({"items": [], "error": error_row(error)})
        complain(name, sentence(error))
        return exit_code(error)


def _standard_streams() -> None:
    """A closed stdout or stderr swallows what is said; one in an old encoding gets `\\xfc` for what it cannot hold."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            # The number is taken, so that no socket or file gets it and then the output.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115 - for life
        elif number:
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")


def _last_words(document: dict[str, Any]) -> None:
    """The document of a failure; that it cannot be written may be the failure."""
    with contextlib.suppress(OSError):
        print_json(document)


async def _in_session(
    command: Callable[[Session, argparse.Namespace], Awaitable[int]], arguments: argparse.Namespace
) -> int:
    # Each takes a tenth of a second to import.
    import stamina.instrumentation

    from client.session import Session

    # A command says what failed in the end; a line for each retry would be noise.
    stamina.instrumentation.set_on_retry_hooks([])
    task = asyncio.current_task()
    assert task is not None
    # In a thread that is not the main one signals are the program's own affair.
    with contextlib.suppress(RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Session() as session:
        return await command(session, arguments)


def first_error(exc: BaseException) -> Exception:
    """The first leaf of an exception group; any other error as it is."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc if isinstance(exc, Exception) else RuntimeError(str(exc))


def sentence(error: Exception) -> str:
    """What went wrong and what to do, in one line."""
    if isinstance(error, CapstanError):
        hint = _HINTS.get(error.code, "")
        text = str(error).rstrip(".")
        return f"{text}; {hint}" if hint else text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def error_row(error: Exception) -> dict[str, str]:
    code = error.code if isinstance(error, CapstanError) else "local_error"
    return {"code": code, "detail": str(error) if isinstance(error, CapstanError) else sentence(error)}


def exit_code(error: Exception) -> int:
    if isinstance(error, NotFound | FileNotFoundError):
        return NOT_FOUND
    if isinstance(error, Denied | Unauthenticated | PermissionError):
        return DENIED
    if isinstance(error, TimedOut):
        return TIMED_OUT
    if isinstance(error, Refused) and error.http_status in (401, 403):
        return DENIED
    return FAILED


def complain(name: str, text: str) -> None:
    # Names come from users and servers: one line, and nothing that a terminal obeys.
    print(f"{name}: {plain(text)}", file=sys.stderr)


def print_json(document: Any) -> None:
    """One document, one line, in UTF-8 whatever the locale says: that is what JSON is."""
    import msgspec

    try:
        content = msgspec.json.encode(document, enc_hook=str)
    except UnicodeEncodeError:
        # A local name that is not UTF-8: its odd bytes are escaped as os.fsdecode has them.
        content = json.dumps(msgspec.to_builtins(document, enc_hook=str)).encode("ascii")
    print_bytes(content + b"\n")


def print_bytes(content: bytes) -> None:
    """To stdout as they are, after what was printed before."""
    sys.stdout.flush()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content.decode("utf-8", "replace"))
    sys.stdout.flush()


@dataclass(slots=True, kw_only=True)
class Results:
    """What became of each thing that a command was asked for, and the exit code that follows."""

    name: str
    items: list[dict[str, Any]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def done(self, **row: Any) -> None:
        self.items.append({**row, "ok": True})

    def failed(self, error: Exception, **row: Any) -> None:
        """Count it, and say it at once."""
        self.errors.append(error)
        self.items.append({**row, "ok": False, "error": error_row(error)})
        text, subject = sentence(error), str(row.get("path") or row.get("local") or "")
        complain(self.name, text if not subject or subject in text else f"{subject}: {text}")

    @property
    def exit_code(self) -> int:
        """0; 3 when some were done; else what all errors agree on, or 1."""
        if not self.errors:
            return DONE
        if len(self.errors) < len(self.items):
            return PARTLY
        codes = {exit_code(error) for error in self.errors}
        return codes.pop() if len(codes) == 1 else FAILED

    def report(self, *, as_json: bool, **more: Any) -> int:
        """The JSON document, if one is wanted; the exit code."""
        if as_json:
            print_json({"items": self.items, **more})
        return self.exit_code

    def broken_off(self, error: CapstanError, *, as_json: bool, **more: Any) -> int:
        """What was done stands, but what came after it failed: both are said, and the error gives the exit code."""
        complain(self.name, sentence(error))
        if as_json:
            print_json({"items": self.items, "error": error_row(error), **more})
        return exit_code(error)


def plain(text: str) -> str:
    """A name as it may be shown on a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")

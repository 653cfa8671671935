"""`capstan explain OBJECT`: where it stands and what it waits for, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json

if TYPE_CHECKING:
    from client.messages import Explanation
    from client.session import Session


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Say where a path, request, job or volume stands, and what it waits for. Exit 0 for any that exists.",
        "capstan explain /exp/f request:17 job:4 E00001",
    )
    parser.add_argument("objects", nargs="+", metavar="OBJECT", help="PATH, request:N, job:N or a volume's name")
    add_json(parser)
    parsed = parser.parse_args(words)

    def explain() -> None:
        answers = ask(lambda session: _explain_all(session, parsed.objects))
        if parsed.json:
            print_json(answers[0] if len(answers) == 1 else {"items": answers})
            return
        for answer in answers:
            print(f"{answer.object} ({answer.state})" if answer.state else answer.object)
            for sentence in answer.sentences:
                print(f"  {sentence[:1].upper()}{sentence[1:].rstrip('.')}.")

    return guarded(explain, as_json=parsed.json)


async def _explain_all(session: Session, objects: Sequence[str]) -> list[Explanation]:
    return [await session.staging.explain(item) for item in objects]

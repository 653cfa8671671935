"""`capstan db`: the catalog's schema on a PostgreSQL server of the site's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from capstan.commands.common import add_json, guarded, parser_for, print_json


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Bring the schema of a database to this release's revision. `capstan up` does so by itself."
        "\nBackups, the journal, and the catalog from the tapes: `capstan db backup|restore|journal|rebuild --help`.",
        "capstan db upgrade postgresql+asyncpg://capstan@db.example.org/capstan",
    )
    parser.add_argument("verb", choices=["upgrade"])
    parser.add_argument("url", help="postgresql+asyncpg://…, as in [database] url")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)

    def carry_out() -> None:
        from sqlalchemy.exc import SQLAlchemyError

        from capstan.config import refuse_other_databases
        from catalog import migrate
        from catalog.errors import CatalogUnreachable
        from jobserver.migrations import upgrade as upgrade_jobs

        async def upgrade() -> None:
            await migrate.upgrade(parsed.url)
            await upgrade_jobs(parsed.url)

        refuse_other_databases(parsed.url, source="URL")
        try:
            asyncio.run(upgrade())
        except (SQLAlchemyError, OSError) as exc:
            raise CatalogUnreachable(why=str(getattr(exc, "orig", None) or exc).splitlines()[0]) from exc
        print_json({"revision": migrate.head()}) if parsed.json else print(f"the schema is at {migrate.head()}")

    return guarded(carry_out, as_json=parsed.json)

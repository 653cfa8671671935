"""What is tried again and again, whatever becomes of one try: why it failed is logged, and nobody else is held up.

What the catalog, a library or a disk refuses for now is a line in the log; anything else is our fault and comes with
its traceback. When it is tried again is the caller's matter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from catalog.database import is_transient
from catalog.errors import CapstanError

log = structlog.get_logger(__name__)


async def attempt(what: str, work: Callable[[], Awaitable[object]], **fields: object) -> bool:
    """Whether it went through. Raises nothing but what cancels."""
    try:
        await work()
    except Exception as error:
        if is_transient(error) or isinstance(error, CapstanError | OSError):
            log.warning("work not done", work=what, why=str(error), **fields)
        else:
            log.exception("work failed", work=what, **fields)
        return False
    return True

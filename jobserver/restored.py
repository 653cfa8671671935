"""Jobs in a catalog that goes on from a backup: none of them is started a second time.

What had not ended in the backup may have run since, wholly or in part, and nobody can tell. So it ends here, as
failed, and its submitter decides. What of it still runs on this host is ended by the batch system, which looks in its
directory; pins and tokens go with the next look of the job server. Called in the restore's transaction; tells nobody.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from jobserver import store
from jobserver.batch import local_queue

REASON = "the catalog was restored from a backup: it may have run already; submit it again"


async def end_jobs(connection: AsyncConnection) -> int:
    """Every job that has not ended is failed, and wanted from no batch system any more; how many. Safe to repeat."""
    if await connection.scalar(sa.text("SELECT to_regclass('jobs.job')")) is None:
        # A catalog without a job server.
        return 0
    ended = await store.fail_all(connection, REASON)
    await local_queue.cancel_all(connection)
    return ended

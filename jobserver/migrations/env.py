"""What alembic runs for the schema `jobs`: its own version table inside it, apart from the catalog's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from jobserver.tables import SCHEMA, metadata

connection = context.config.attributes["connection"]
connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
connection.commit()
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    include_name=lambda name, kind, _: kind != "schema" or name == SCHEMA,
    transaction_per_migration=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()

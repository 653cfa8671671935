"""What alembic runs for every command: upgrade over the connection that catalog.migrate hands in.

Each revision is a transaction of its own, because a value added to an enum can be used only after its commit.
"""

from __future__ import annotations

from alembic import context

from catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()

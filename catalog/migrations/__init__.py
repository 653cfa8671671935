"""The schema's history: alembic's environment and one file per revision. Run by catalog.migrate, by nobody else."""

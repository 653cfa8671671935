"""The spine: namespace, media, disk, staging, queues, coordination; states that the database guards."""

from __future__ import annotations

import secrets
from importlib import resources

from alembic import op

revision = "0001"
down_revision = None

#: machine -> (table, allowed steps). Frozen here: a later migration changes state_move, never this table.
MOVES: dict[str, dict[str, str]] = {
    "library": {"": "up down", "up": "down unreachable", "down": "up", "unreachable": "up down"},
    "drive": {"": "up down", "up": "down", "down": "up"},
    "volume": {
        "": "blank active",
        "blank": "active disabled broken exported",
        "active": "full closed repacking disabled suspect broken exported",
        "full": "blank active closed repacking disabled suspect broken exported",
        "closed": "blank active repacking disabled suspect broken exported",
        "repacking": "blank closed disabled suspect broken exported",
        "disabled": "blank active full closed repacking suspect broken exported",
        "suspect": "active full closed repacking disabled broken exported",
        "broken": "suspect",
        "exported": "suspect disabled",
    },
    "file": {"": "live deleted", "live": "deleted", "deleted": "live purged", "purged": ""},
    "maintenance": {
        "": "queued",
        "queued": "running cancelled",
        "running": "queued done failed cancelled",
        "done": "",
        "failed": "queued",
        "cancelled": "",
    },
    "replica": {
        "": "on_disk",
        "on_disk": "evicting lost quarantined",
        "evicting": "",
        "lost": "on_disk",
        "quarantined": "evicting",
    },
    "cache_server": {"": "up", "up": "down", "down": "up"},
    "stage_request": {"": "submitted", "submitted": "started ended", "started": "ended", "ended": ""},
    "stage_item": {
        "": "submitted",
        "submitted": "started completed failed cancelled",
        "started": "completed failed cancelled",
        "completed": "",
        "failed": "",
        "cancelled": "",
    },
    "recall": {"": "queued", "queued": "claimed", "claimed": "queued"},
    "archive": {"": "queued", "queued": "claimed held", "claimed": "queued held", "held": "queued"},
    "mount": {
        "": "planned",
        "planned": "loading unloading",
        "loading": "running unloading",
        "running": "unloading",
        "unloading": "",
    },
}


def upgrade() -> None:
    connection = op.get_bind()
    sql = resources.files(__package__ or "catalog.migrations.versions").joinpath("0001_spine.sql").read_text()
    # One statement at a time: the driver's extended protocol takes no scripts. No statement holds ";\n" inside but
    # between dollar quotes, which statements() respects.
    for statement in statements(sql):
        connection.exec_driver_sql(statement)
    # The names and states below are this file's own constants: nothing to bind, nothing to inject.
    for machine, steps in MOVES.items():
        for present, targets in steps.items():
            for target in targets.split():
                connection.exec_driver_sql(
                    f"insert into state_move values ('{machine}', '{present}', '{target}')"  # noqa: S608
                )
        initial = ", ".join(f"'{state}'" for state in steps[""].split())
        connection.exec_driver_sql(
            f"create trigger {machine}_moves before update of state on {machine} for each row "
            f"when (old.state is distinct from new.state) execute function check_state_move('{machine}')"
        )
        # The `when` keeps bulk inserts free of a call per row.
        connection.exec_driver_sql(
            f"create trigger {machine}_begins before insert on {machine} for each row "
            f"when (new.state not in ({initial})) execute function check_state_move('{machine}')"
        )
    connection.exec_driver_sql("select make_history_partitions()")
    connection.exec_driver_sql(
        f"insert into catalog_identity (id, incarnation) values ('{secrets.token_hex(4)}', '{secrets.token_hex(8)}')"  # noqa: S608
    )
    connection.exec_driver_sql("insert into node (parent, name, kind) values (null, '', 'directory')")
    connection.exec_driver_sql(
        "insert into directory (node, owner, grp, mtime_ns) "
        "select id, 'capstan', 'capstan', (extract(epoch from capstan_now()) * 1e9)::bigint from node "
        "where parent is null"
    )


def statements(sql: str) -> list[str]:
    """The script's statements; `;` ends one except between `$$`."""
    found: list[str] = []
    present: list[str] = []
    quoted = False
    for line in sql.splitlines():
        if not present and (not line.strip() or line.startswith("--")):
            continue
        present.append(line)
        quoted ^= line.count("$$") % 2 == 1
        code = line.split("--")[0].rstrip()
        if code.endswith(";") and not quoted:
            found.append("\n".join(present))
            present = []
    return found


def downgrade() -> None:
    raise RuntimeError("the spine is not taken back: restore a backup instead")

"""Jobs and their inputs, what is staged for them, the local batch system's queue; states that the database guards."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

#: machine -> allowed steps; frozen here: a later migration changes jobs.state_move, never this table
MOVES: dict[str, dict[str, str]] = {
    "job": {
        "": "accepted",
        "accepted": "held failed cancelled",
        "held": "staging failed cancelled",
        "staging": "held ready failed cancelled",
        "ready": "released staging failed cancelled",
        "released": "staging running done failed cancelled",
        "running": "done failed cancelled",
        "done": "",
        "failed": "",
        "cancelled": "",
    },
    "local_job": {
        "": "held",
        "held": "queued cancelled",
        "queued": "held starting cancelled",
        "starting": "running ended cancelled lost",
        "running": "ended cancelled lost",
        "ended": "",
        "cancelled": "",
        "lost": "",
    },
}

STATEMENTS = (
    """create table jobs.state_move (
        machine text not null, from_state text not null, to_state text not null,
        primary key (machine, from_state, to_state))""",
    """create function jobs.check_state_move() returns trigger language plpgsql as $$
    declare
        present text := case when tg_op = 'INSERT' then '' else old.state end;
    begin
        if not exists (select from jobs.state_move m
                       where m.machine = tg_argv[0] and m.from_state = present and m.to_state = new.state) then
            raise exception '% may not move from "%" to "%"', tg_argv[0], present, new.state
                using errcode = '23514', constraint = 'state_move';
        end if;
        return new;
    end $$""",
    """create table jobs.job (
        id bigint generated always as identity primary key,
        name text not null, owner text not null, groups text[] not null, grants jsonb not null,
        argv text[] not null, priority smallint not null, whole_volumes boolean,
        state text not null default 'accepted', reason text not null default '', waiting jsonb not null default '[]',
        volumes text[] not null default '{}',
        attempt smallint not null default 1, nonce text not null default substr(gen_random_uuid()::text, 1, 8),
        native_id text, tries smallint not null default 0,
        inputs integer not null check (inputs >= 0), bytes bigint not null check (bytes >= 0),
        on_disk integer not null default 0, token_id bigint,
        cancel_wanted boolean not null default false, cleaned boolean not null default false,
        submitted_at timestamptz not null default capstan_now(), pinned_at timestamptz, ready_at timestamptz,
        released_at timestamptz, started_at timestamptz, ended_at timestamptz, expected_at timestamptz,
        exit_code integer, signal integer,
        check (cardinality(argv) > 0))""",
    "create index job_live on jobs.job (priority desc, id) where not cleaned",
    "create index job_owner on jobs.job (owner, id)",
    "create index job_ended on jobs.job (ended_at) where cleaned",
    """create table jobs.job_input (
        job bigint not null references jobs.job on delete cascade, number integer not null,
        file bigint not null, path text not null, size bigint not null, primary key (job, number))""",
    """create table jobs.staging (
        id bigint generated always as identity primary key, volume text not null, whole boolean not null, request text,
        created_at timestamptz not null default capstan_now())""",
    """create table jobs.staged_file (
        file bigint primary key, path text not null, size bigint not null, staging bigint references jobs.staging,
        tries smallint not null default 0, last_error text not null default '',
        not_before timestamptz not null default capstan_now())""",
    "create index staged_file_staging on jobs.staged_file (staging)",
    """create table jobs.local_job (
        id bigint generated always as identity primary key, key text not null unique, name text not null,
        argv text[] not null, environment jsonb not null,
        state text not null default 'held', priority smallint not null default 0,
        cancel_wanted boolean not null default false, exit_code integer, signal integer,
        reason text not null default '', submitted_at timestamptz not null default capstan_now(),
        released_at timestamptz, started_at double precision, ended_at double precision)""",
    "create index local_job_queue on jobs.local_job (priority desc, released_at, id) where state = 'queued'",
    "create index local_job_busy on jobs.local_job (id) where state in ('starting', 'running')",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)
    # The names and states are this file's own constants: nothing to bind, nothing to inject.
    for machine, steps in MOVES.items():
        for present, targets in steps.items():
            for target in targets.split():
                connection.exec_driver_sql(
                    f"insert into jobs.state_move values ('{machine}', '{present}', '{target}')"  # noqa: S608
                )
        connection.exec_driver_sql(
            f"create trigger {machine}_moves before update of state on jobs.{machine} for each row "
            f"when (old.state is distinct from new.state) execute function jobs.check_state_move('{machine}')"
        )
        connection.exec_driver_sql(
            f"create trigger {machine}_begins before insert on jobs.{machine} for each row "
            f"execute function jobs.check_state_move('{machine}')"
        )


def downgrade() -> None:
    raise RuntimeError("the first revision is not taken back: restore a backup instead")

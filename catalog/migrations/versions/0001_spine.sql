-- The spine of the catalog. Times are timestamptz from capstan_now(); sizes are bytes; checksums are lower-case hex.

-- The one clock. Tests stand it still (capstan.now), or step it (capstan.clock_offset).
create function capstan_now() returns timestamptz language sql stable parallel safe as
$$ select coalesce(nullif(current_setting('capstan.now', true), '')::timestamptz,
                   clock_timestamp() + coalesce(nullif(current_setting('capstan.clock_offset', true), ''), '0')::interval) $$;

-- ------------------------------------------------------------------ states: the database refuses an illegal step too

-- For sums that have to come out exactly.
create function whole_seconds(moment timestamptz) returns bigint language sql immutable parallel safe as
    'select floor(extract(epoch from moment))::bigint';

create table state_move (
    machine text not null, from_state text not null, to_state text not null,
    primary key (machine, from_state, to_state)
);

create function check_state_move() returns trigger language plpgsql as $$
declare
    present text := case when tg_op = 'INSERT' then '' else old.state end;
begin
    if not exists (select from state_move m
                   where m.machine = tg_argv[0] and m.from_state = present and m.to_state = new.state) then
        raise exception '% may not move from "%" to "%"', tg_argv[0], present, new.state
            using errcode = '23514', constraint = 'state_move';
    end if;
    return new;
end $$;

-- ------------------------------------------------------------------ identity of this catalog, settings that live in it

create table catalog_identity (
    "only" boolean primary key default true check ("only"),
    id text not null,                -- short, written into every volume label
    incarnation text not null,       -- changes with every restore; part of an event's position
    created_at timestamptz not null default capstan_now()
);

-- ------------------------------------------------------------------ media

create table library (
    name text primary key, kind text not null, spec jsonb not null,
    state text not null default 'up', reason text not null default '', changed_by text not null default 'capstan',
    since timestamptz not null default capstan_now()
);

create table drive (
    name text primary key, library text not null references library,
    state text not null default 'up', reason text not null default '', changed_by text not null default 'capstan',
    since timestamptz not null default capstan_now(),
    model text not null default '',                -- what an operator says that it is; '': as its library reports
    reported_model text not null default '',       -- '': the library does not say
    tapeserver text, heartbeat_at timestamptz
);

create table pool (
    name text primary key, library text not null references library,
    volumes_open_max smallint check (volumes_open_max between 1 and 64)   -- filled at once; null: the tape server's default
);

create table volume (
    vid text primary key, library text not null references library, pool text references pool,
    state text not null default 'blank', reason text not null default '', changed_by text not null default 'capstan',
    since timestamptz not null default capstan_now(),
    generation integer not null default 0,
    medium text not null default '',               -- what an operator says that it is; '': as its library or its capacity tells
    medium_since timestamptz,                      -- when he said so
    capacity_bytes bigint not null, written_bytes bigint not null default 0, block_size integer not null default 262144,
    tape_files integer not null default 0,        -- number of the last tape file; 0 on a labelled, empty volume
    end_block bigint not null default 0,          -- logical object number at which the next tape file starts
    end_verified boolean not null default true,   -- false after a restore: not written before its end was found on the tape
    index_block bigint not null default 0,        -- HDR1 of the last index; 0: none yet
    indexed_tape_files integer not null default 0,   -- the tape files that the chain of indexes tells of
    full_at timestamptz, closed_at timestamptz, labelled_at timestamptz, written_at timestamptz, read_at timestamptz,
    verified_at timestamptz,                      -- the last time that all that counts on it was read back
    left_at timestamptz,                          -- the last time that a copy was taken off it because it lies elsewhere now
    hurried_at timestamptz                        -- an operator wants it mounted now; null again once it is
);
create index volume_pool on volume (pool, state);
-- By the last change that a planner must hear of.
create index volume_library on volume (library, greatest(since, medium_since));
create index volume_hurried on volume (vid) where hurried_at is not null;
create index volume_unindexed on volume (vid) where tape_files > indexed_tape_files or not end_verified;

-- What the states of a volume mean for its copies, in one place. Good: they count towards "safe". Present: they may be
-- asked for, now or later. Readable: it may be mounted to read.
create function volume_is_good(state text) returns boolean language sql immutable parallel safe as
$$ select state in ('active', 'full', 'closed', 'repacking', 'disabled') $$;
create function volume_is_present(state text) returns boolean language sql immutable parallel safe as
$$ select state in ('active', 'full', 'closed', 'repacking', 'disabled', 'suspect') $$;
create function volume_is_readable(state text) returns boolean language sql immutable parallel safe as
$$ select state in ('active', 'full', 'closed', 'repacking', 'suspect') $$;

-- The suspect matrix: what failed with which volume in which drive. A row counts until it expires or is cleared.
create table failure (
    id bigint generated always as identity primary key, at timestamptz not null default capstan_now(),
    library text not null, drive text not null, volume text not null,
    kind text not null check (kind in ('load', 'readback', 'read', 'write', 'stuck')), epoch bigint not null, file bigint,
    copy_is_good boolean not null default false,   -- of a file: its copy was read well elsewhere, so it was the drive
    why text not null, expires_at timestamptz not null, cleared_at timestamptz
);
create index failure_volume on failure (volume, expires_at) where cleared_at is null;
create index failure_drive on failure (drive, expires_at) where cleared_at is null;

-- What a library or a drive says of itself (TapeAlert and the like); kept, shown, cleared by an operator.
create table alert (
    id bigint generated always as identity primary key, at timestamptz not null default capstan_now(),
    library text not null, drive text, volume text, code text not null,
    severity text not null check (severity in ('info', 'warning', 'critical')), text text not null,
    cleared_at timestamptz, cleared_by text
);
-- What is said again while it is open is one row.
create unique index alert_open on alert (library, coalesce(drive, ''), coalesce(volume, ''), code) where cleared_at is null;

-- Long work on media that goes on across restarts: the row is the state, whoever plans the library carries it on.
create table maintenance (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('verify', 'repack', 'audit', 'label', 'index')),
    key text not null,                            -- a volume, or a storage class for an audit
    state text not null default 'queued', who text not null, reason text not null,
    options jsonb not null default '{}', cursor jsonb not null default '{}',
    files bigint not null default 0, bytes bigint not null default 0,            -- what there was to do when it began
    done_files bigint not null default 0, done_bytes bigint not null default 0, errors bigint not null default 0,
    note text not null default '',
    created_at timestamptz not null default capstan_now(), changed_at timestamptz not null default capstan_now()
);
create unique index maintenance_live on maintenance (kind, key) where state in ('queued', 'running');

create table storage_class (
    name text primary key, copies smallint not null check (copies between 1 and 8),
    pools text[] not null check (cardinality(pools) >= copies),   -- in order of preference, one library each
    evict_degraded boolean not null default false, is_default boolean not null default false
);
create unique index storage_class_default on storage_class (is_default) where is_default;

-- ------------------------------------------------------------------ namespace

create table node (
    id bigint generated always as identity primary key,
    parent bigint references node, name text collate "C" not null, kind text not null check (kind in ('directory', 'file')),
    unique (parent, name)
);

create table directory (
    node bigint primary key references node on delete cascade,
    owner text not null, grp text not null, mode integer not null default 493, mtime_ns bigint not null,
    storage_class text references storage_class
);

create table file (
    id bigint generated always as identity primary key,
    node bigint unique references node on delete set null,
    state text not null default 'live', size bigint not null check (size >= 0),
    adler32 text not null check (adler32 ~ '^[0-9a-f]{8}$'), digests jsonb not null default '{}',
    mtime_ns bigint not null, mode integer not null default 420, owner text not null, grp text not null,
    storage_class text not null references storage_class, stored_path text not null,
    collocation text not null default '',          -- what the put asked to lie together with; '': its directory
    created_at timestamptz not null default capstan_now(),
    deleted_at timestamptz, deleted_path text collate "C", deleted_by text,   -- the recycle bin: where it was, who removed it
    check ((state = 'live') = (deleted_at is null))
);
create index file_recycle on file (deleted_at) where state = 'deleted';
-- The bin by path. A path has up to 4,096 bytes, an index row at most a third of a page: so its beginning.
create index file_recycle_path on file ("left"(deleted_path, 200), id) where state = 'deleted';
create index file_purged on file (deleted_at) where state = 'purged';

create table copy (
    id bigint generated always as identity primary key,
    file bigint not null references file, copy_number smallint not null,
    volume text not null references volume, generation integer not null,
    tape_file integer not null, first_block bigint not null, byte_offset bigint not null, length bigint not null,
    epoch bigint not null, created_at timestamptz not null default capstan_now(),
    broken_at timestamptz, broken_why text,        -- read wrong in several drives: it counts no more
    unique (volume, generation, first_block, byte_offset, file)
);
create index copy_file on copy (file);

-- A copy counts when its volume carries the generation it was written under, the volume is in a good state, and nobody
-- has found it broken. A present one may be asked for; whether it can be read now is the volume's and library's state.
create view good_copy as
select c.*, v.library, v.state as volume_state from copy c
join volume v on v.vid = c.volume and v.generation = c.generation
where volume_is_good(v.state) and c.broken_at is null;

create view present_copy as
select c.*, v.library, v.state as volume_state from copy c
join volume v on v.vid = c.volume and v.generation = c.generation
where volume_is_present(v.state) and c.broken_at is null;

-- Where the files of one collocation key went last in a pool, so that what comes later joins them.
create table collocation (
    pool text not null references pool, key text not null, volume text not null references volume,
    at timestamptz not null default capstan_now(), primary key (pool, key)
);
create index collocation_age on collocation (at);

create table dead_extent (
    volume text not null references volume, generation integer not null, tape_file integer not null,
    first_block bigint not null, blocks bigint not null, why text not null, found_at timestamptz not null default capstan_now(),
    primary key (volume, generation, first_block)
);

-- ------------------------------------------------------------------ disk

create table cache_server (
    name text primary key, url text not null, root_id text not null, host text not null, root text not null,
    state text not null default 'up', reason text not null default '', changed_by text not null default 'capstan',
    since timestamptz not null default capstan_now(),
    capacity_bytes bigint not null,
    taken_bytes bigint not null default 0,        -- replicas and reservations together: one turns into the other without a change
    high_watermark real not null default 0.9, low_watermark real not null default 0.8,
    wanted_bytes bigint not null default 0,       -- the largest wish that was refused since the evictor last looked
    evictable_bytes bigint,                       -- of the replicas those that could go, when it last looked; null: not known
    heartbeat_at timestamptz not null default capstan_now(),
    unreached_at timestamptz,                     -- when a mover could not give it a file: for a while the others come first
    check (taken_bytes >= 0)
);

create table reservation (
    id bigint generated always as identity primary key,   -- becomes the replica's id
    cache_server text not null references cache_server, bytes bigint not null check (bytes >= 0),
    kind text not null check (kind in ('put', 'recall')), file bigint references file, epoch bigint, path text,
    created_at timestamptz not null default capstan_now(), expires_at timestamptz not null
);
create index reservation_server on reservation (cache_server, expires_at);
create index reservation_file on reservation (file);   -- files are deleted by the thousand, each looked up here
create index reservation_epoch on reservation (epoch) where epoch is not null;

create table replica (
    id bigint primary key, file bigint not null references file, cache_server text not null references cache_server,
    state text not null default 'on_disk', size bigint not null, origin text not null check (origin in ('put', 'recall')),
    checked boolean not null default true,         -- false after an unclean stop, until its bytes were checksummed again
    created_at timestamptz not null default capstan_now(), last_used_at timestamptz not null default capstan_now(),
    why text not null default ''
);
create unique index replica_one_a_server on replica (file, cache_server) where state in ('on_disk', 'lost');
create index replica_file on replica (file);
create index replica_age on replica (cache_server, last_used_at) where state = 'on_disk';
create index replica_evicting on replica (cache_server) where state = 'evicting';

create table pin (
    file bigint not null references file, owner text not null, expires_at timestamptz not null,
    created_at timestamptz not null default capstan_now(), primary key (file, owner)
);
create index pin_owner on pin (owner);
create index pin_expiry on pin (expires_at);

-- ------------------------------------------------------------------ staging

create table stage_request (
    id bigint generated always as identity primary key, owner text not null, token bigint,
    origin text not null default 'stage' check (origin in ('stage', 'get', 'repair')),
    state text not null default 'submitted', activity text not null default '', priority smallint not null default 50,
    items bigint not null, items_live bigint not null,
    created_at timestamptz not null default capstan_now(), started_at timestamptz, completed_at timestamptz,
    forgotten_at timestamptz                       -- its owner has deleted it: kept for a while as history, for nobody else
);
create index stage_request_owner on stage_request (owner, id);
create index stage_request_forgotten on stage_request (forgotten_at) where forgotten_at is not null;
create index stage_request_submitted on stage_request (id) where state = 'submitted';

create table stage_item (
    request bigint not null references stage_request on delete cascade, number integer not null, path text not null,
    -- No foreign key: what has ended speaks by its path, and a file that is gone for good must not look through all items.
    file bigint, state text not null default 'submitted', lifetime_seconds double precision not null,
    cohort bigint not null default 0,              -- what is of use only together has the same; 0: alone
    error_code text, error text, started_at timestamptz, finished_at timestamptz,
    primary key (request, number)
);
create index stage_item_file on stage_item (file) where state in ('submitted', 'started');
-- A path has up to 4,096 bytes, an index row at most a third of a page: so its hash.
create index stage_item_path on stage_item (request, hashtextextended(path, 0));

-- ------------------------------------------------------------------ queues: live rows only

create table recall (
    file bigint primary key references file, state text not null default 'queued', bytes bigint not null,
    owner text not null, grp text not null, activity text not null default '', priority smallint not null default 50,
    cohort bigint not null default 0,              -- what is of use only together has the same; 0: alone
    volume text references volume, epoch bigint, attempts smallint not null default 0, last_error text not null default '',
    abandoned boolean not null default false,     -- the last waiter left while the mount had it
    created_at timestamptz not null default capstan_now(), not_before timestamptz not null default capstan_now()
);
create index recall_epoch on recall (epoch) where epoch is not null;

-- One reference and no more, because each is asked for every row that is enqueued: the copy's, which is on the volume. A
-- recall's demand is written under the lock of its row, and goes in the statement that deletes it.
create table demand (
    volume text not null, first_block bigint not null, file bigint not null,
    byte_offset bigint not null, copy bigint not null references copy on delete cascade, created_at timestamptz not null,
    primary key (volume, first_block, byte_offset, file)
);
create index demand_file on demand (file);
create index demand_age on demand (volume, created_at);
-- A copy that goes asks who demands it: without this each one would look through all that is queued.
create index demand_copy on demand (copy);

create table archive (
    id bigint generated always as identity primary key, file bigint not null references file, copy_number smallint not null,
    pool text not null references pool, state text not null default 'queued', bytes bigint not null,
    owner text not null, grp text not null, urgent boolean not null default false,
    collocation text not null default '',          -- its key: what has the same lies together
    epoch bigint, attempts smallint not null default 0, last_error text not null default '',
    created_at timestamptz not null default capstan_now(), not_before timestamptz not null default capstan_now(),
    unique (file, copy_number)
);
-- The order of claiming: what somebody waits for, then by age.
create index archive_pool on archive (pool, urgent desc, created_at) where state = 'queued';
create index archive_epoch on archive (epoch) where epoch is not null;
create index archive_age on archive (created_at);
create index archive_waited on archive (epoch) where urgent;
create index archive_collocation on archive (pool, collocation, created_at) where state = 'queued';

-- Never one hot row: changes are inserted here in the transaction that makes them; the planner folds them.
create table queue_delta (
    id bigint generated always as identity primary key, kind text not null check (kind in ('recall', 'archive')),
    key text not null,                             -- the volume of a recall's demand, the pool of an archive
    owner text not null, grp text not null, activity text not null, priority smallint not null,
    cohort bigint not null default 0, files bigint not null, bytes bigint not null, urgent bigint not null,
    asked bigint not null default 0                -- sum of the whole seconds at which they were asked for
);

create table queue_counter (
    kind text not null, key text not null, owner text not null, grp text not null, activity text not null,
    priority smallint not null, cohort bigint not null default 0,
    files bigint not null, bytes bigint not null, urgent bigint not null, asked bigint not null default 0,
    primary key (kind, key, owner, grp, activity, priority, cohort)
);
create index queue_counter_empty on queue_counter (kind) where files = 0 and bytes = 0 and urgent = 0;

create table candidate (
    kind text not null check (kind in ('volume', 'pool')), key text not null, library text not null,
    code text not null, arguments jsonb not null default '{}', changed_at timestamptz not null default capstan_now(),
    primary key (kind, key)
);

create table mount (
    epoch bigint generated always as identity primary key,
    drive text not null unique references drive, volume text not null unique references volume,
    library text not null references library, pool text references pool,
    purpose text not null check (purpose in ('recall', 'archive', 'label', 'verify')), state text not null default 'planned',
    reason_code text not null, reason_arguments jsonb not null default '{}',
    grp text not null default '',                  -- whose limit of drives it counts against
    idle_since timestamptz,                        -- since when its session has had nothing to do
    tapeserver text, files bigint not null default 0, bytes bigint not null default 0, stop_wanted text,
    created_at timestamptz not null default capstan_now(), changed_at timestamptz not null default capstan_now()
);

-- What a live mount has done for whom. Written by its own session alone, so never hot; at its end it becomes usage.
create table mount_served (
    epoch bigint not null references mount on delete cascade, owner text not null, grp text not null,
    files_read bigint not null default 0, bytes_read bigint not null default 0,
    files_written bigint not null default 0, bytes_written bigint not null default 0,
    primary key (epoch, owner, grp)
);

-- The part of a mount that each has: by the bytes that it moved for him, of a mount of empty files by their number.
create view mount_part as
select m.epoch, m.library, s.owner, s.grp, s.files_read, s.bytes_read, s.files_written, s.bytes_written,
       extract(epoch from capstan_now() - m.created_at)::double precision as seconds,
       (case when sum(s.bytes_read + s.bytes_written) over mine > 0
             then (s.bytes_read + s.bytes_written) / sum(s.bytes_read + s.bytes_written) over mine
             else (s.files_read + s.files_written) / sum(greatest(s.files_read + s.files_written, 1)) over mine
        end)::double precision as part
from mount m join mount_served s on s.epoch = m.epoch window mine as (partition by m.epoch);

-- Drives' time and what came of it, by the day (UTC) on which mounts ended. A mount that served several is parted.
create table usage (
    day date not null, library text not null, owner text not null, grp text not null,
    mounts double precision not null, drive_seconds double precision not null,
    files_read bigint not null, bytes_read bigint not null, files_written bigint not null, bytes_written bigint not null,
    used_at timestamptz not null,                  -- the middle of this drive time: it decays from here on
    primary key (day, library, owner, grp)
);

-- ------------------------------------------------------------------ what an operator tells the planner

-- One row for all: its number grows with every change of the two tables below, which also makes changes wait in line.
create table planning (
    "only" boolean primary key default true check ("only"), changes bigint not null default 0
);
insert into planning default values;

create table share (
    grp text not null, owner text not null default '',      -- '': the group among groups; else the owner inside his group
    weight double precision not null default 1 check (weight > 0),
    drive_seconds double precision check (drive_seconds >= 0),   -- decayed, above which he has less; null: no bound
    reading_drives integer check (reading_drives >= 0), writing_drives integer check (writing_drives >= 0),   -- at once
    primary key (grp, owner),
    constraint share_drives_check check (owner = '' or (reading_drives is null and writing_drives is null))
);

-- The first rule, by place, that matches a request gives its weight; patterns as in a shell.
create table weight_rule (
    place integer primary key, weight double precision not null check (weight > 0),
    activity text not null default '*', grp text not null default '*', owner text not null default '*',
    priority_min smallint not null default -32768, priority_max smallint not null default 32767,
    check (priority_min <= priority_max)
);

-- When what waits on a volume is expected to be read: the planner's picture run forward, rewritten where it has changed.
-- What one library's planner says is believed while it has looked lately.
create table estimate (
    volume text primary key references volume on delete cascade, library text not null references library,
    begins_at timestamptz not null, reading_seconds double precision not null, files bigint not null,
    mounted boolean not null,
    in_hand_seconds double precision not null, in_hand_files bigint not null   -- what its mover has: that comes first
);
-- The same of what waits to be written, by pool. No oldest_at: nothing that waits can be written now.
create table pool_estimate (
    pool text primary key references pool on delete cascade, library text not null references library,
    begins_at timestamptz not null, in_hand_seconds double precision not null, writing_seconds double precision not null,
    files bigint not null, urgent bigint not null, oldest_at timestamptz, newest_at timestamptz
);
create table estimate_look (library text primary key references library, at timestamptz not null);

create table mount_history (
    epoch bigint not null, drive text not null, volume text not null, library text not null, pool text, purpose text not null,
    reason_code text not null, files bigint not null, bytes bigint not null, outcome text not null,
    created_at timestamptz not null, ended_at timestamptz not null default capstan_now(),
    primary key (epoch, ended_at)
) partition by range (ended_at);

-- ------------------------------------------------------------------ coordination, identity, record

create table lease (name text primary key, holder text not null, number bigint not null, expires_at timestamptz not null);

create table server (
    kind text not null, name text not null, url text not null, host text not null, pid integer not null,
    started_at timestamptz not null default capstan_now(), heartbeat_at timestamptz not null default capstan_now(),
    detail jsonb not null default '{}', primary key (kind, name)
);

create table token (
    id bigint generated always as identity primary key, hash bytea not null unique, label text not null,
    owner text not null, groups text[] not null, grants jsonb not null,     -- [[action, path prefix], ...]
    recorded boolean not null default false, created_at timestamptz not null default capstan_now(),
    expires_at timestamptz, revoked_at timestamptz
);

create table signing_key (
    id integer generated always as identity primary key, secret bytea not null,
    created_at timestamptz not null default capstan_now(), retires_at timestamptz not null
);

create table audit (
    id bigint generated always as identity primary key, at timestamptz not null default capstan_now(),
    who text not null, action text not null, object text not null, reason text not null, detail jsonb not null default '{}'
);
create index audit_object on audit (object, id);

-- Backups of this catalog that were made, and read back. Reclaiming a volume asks for one newer than its last deletion.
create table catalog_backup (
    id bigint generated always as identity primary key, began_at timestamptz not null,
    path text not null, bytes bigint not null, sha256 text not null, verified_at timestamptz, removed_at timestamptz
);

-- File ids that a life of this catalog may have given which a restore, or a rebuild, has ended. A file that stands on a
-- tape with such an id, and that the catalog lacks, was stored in that life; with any other id it was removed in this one.
create table lost_life (
    first_file bigint primary key, last_file bigint not null, ended_at timestamptz not null default capstan_now()
);

-- Changes of the namespace, by id and never by path, so that the last one of a node or file is all that is true of it; and
-- what operators say of drives and volumes, which have names and no ids: 0, with the name in the entry. Written by
-- triggers, in the transaction that makes the change and under the lock of the row: of one object, the order of seq is the
-- order of the changes. Read like the outbox of events: below the oldest transaction under way.
create table journal (
    seq bigint generated always as identity, transaction xid8 not null default pg_current_xact_id(),
    at timestamptz not null default capstan_now(),
    kind text not null check (kind in ('node', 'directory', 'file', 'replica', 'drive', 'volume')), id bigint not null,
    removed boolean not null default false, entry jsonb not null default '{}',
    primary key (transaction, seq)
);

-- Parts of the journal that lie outside the database: below the configured path, and as a file of the system class.
-- The newest one grows until it is closed; it begins behind the one before it and ends at (until_transaction, until_seq).
create table journal_segment (
    number bigint generated by default as identity primary key,   -- gaps mean nothing: each names the one before it
    first_seq bigint not null, last_seq bigint not null, entries bigint not null,
    until_transaction xid8 not null, until_seq bigint not null,
    bytes bigint not null, adler32 text not null, path text not null, file bigint references file,
    made_at timestamptz not null default capstan_now(), closed_at timestamptz
);
create index segment_file on journal_segment (file);

create table event (
    id bigint generated always as identity, transaction xid8 not null default pg_current_xact_id(),
    at timestamptz not null default capstan_now(), kind text not null, subject text not null, data jsonb not null default '{}',
    primary key (transaction, id, at)
) partition by range (at);

-- ------------------------------------------------------------------ derived in one place

create function file_good_copies(wanted bigint) returns bigint language sql stable as $$
    select count(distinct copy_number) from good_copy where file = wanted
$$;

-- Of many at once, which is how a commit asks: a call for each would cost half a millisecond.
create function safe_files(wanted bigint[]) returns setof bigint language sql stable as $$
    select f.id from file f join storage_class s on s.name = f.storage_class
    join (select c.file, count(distinct c.copy_number) as copies from good_copy c where c.file = any(wanted) group by c.file)
        as counted on counted.file = f.id
    where counted.copies >= s.copies
$$;

create function file_is_safe(wanted bigint) returns boolean language sql stable as $$
    select exists (select from safe_files(array[wanted]))
$$;

-- Degraded: all copies are good, but not all of them can be reached now.
create function files_within_reach(wanted bigint[]) returns setof bigint language sql stable as $$
    select c.file from good_copy c join library l on l.name = c.library where c.file = any(wanted) group by c.file
    having count(distinct c.copy_number) filter (where l.state = 'up' and c.volume_state <> 'disabled')
         = count(distinct c.copy_number)
$$;

create function file_is_degraded(wanted bigint) returns boolean language sql stable as $$
    select exists (select from good_copy c where c.file = wanted)
       and not exists (select from files_within_reach(array[wanted]))
$$;

-- Of these files those whose replicas may go. A set, because a cache server asks of all that it has, again and again: a
-- call for each costs ten times as much.
create function evictable_files(wanted bigint[]) returns setof bigint language sql stable as $$
    select f.id from file f join storage_class s on s.name = f.storage_class
    where f.id = any(wanted) and f.id in (select safe_files(wanted))
      and (s.evict_degraded or f.id in (select files_within_reach(wanted)))
      and not exists (select from pin p where p.file = f.id and p.expires_at > capstan_now())
      and not exists (select from stage_item i where i.file = f.id and i.state in ('submitted', 'started'))
$$;

create function file_is_evictable(wanted bigint) returns boolean language sql stable as $$
    select exists (select from evictable_files(array[wanted]))
$$;

-- Names of the way from the root, for messages and audit; the namespace itself stores no path.
create function node_path(wanted bigint) returns text language sql stable as $$
    with recursive up (id, parent, path) as (
        select id, parent, name from node where id = wanted
        union all
        select n.id, n.parent, n.name || '/' || up.path from node n join up on n.id = up.parent
    )
    select case when path = '' then '/' else path end from up where parent is null
$$;

-- ------------------------------------------------------------------ the journal of the namespace, written by triggers

-- Statement triggers, so that a bulk insert costs one call; only what a rebuild wants is told.
create function journal_nodes() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into journal (kind, id, removed) select 'node', id, true from gone order by id;
    elsif tg_op = 'INSERT' then
        insert into journal (kind, id, entry)
        select 'node', id, jsonb_build_object('parent', parent, 'name', name, 'kind', kind) from come order by id;
    else
        insert into journal (kind, id, entry)
        select 'node', c.id, jsonb_build_object('parent', c.parent, 'name', c.name, 'kind', c.kind)
        from come c join gone g on g.id = c.id where (c.parent, c.name) is distinct from (g.parent, g.name) order by c.id;
    end if;
    return null;
end $$;

create trigger node_comes after insert on node referencing new table as come
    for each statement execute function journal_nodes();
create trigger node_moves after update on node referencing old table as gone new table as come
    for each statement execute function journal_nodes();
create trigger node_goes after delete on node referencing old table as gone
    for each statement execute function journal_nodes();

create function journal_directories() returns trigger language plpgsql as $$
begin
    insert into journal (kind, id, entry)
    select 'directory', node, jsonb_build_object('owner', owner, 'grp', grp, 'mode', mode, 'mtime_ns', mtime_ns,
                                                 'storage_class', storage_class) from come order by node;
    return null;
end $$;

create trigger directory_comes after insert on directory referencing new table as come
    for each statement execute function journal_directories();
create trigger directory_changes after update on directory referencing new table as come
    for each statement execute function journal_directories();

create function journal_files() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into journal (kind, id, removed) select 'file', id, true from gone order by id;
    elsif tg_op = 'INSERT' then
        insert into journal (kind, id, entry) select 'file', id, file_entry(c) from come c order by id;
    else
        insert into journal (kind, id, entry)
        select 'file', c.id, file_entry(c) from come c join gone g on g.id = c.id
        where file_entry(c) is distinct from file_entry(g) order by c.id;
    end if;
    return null;
end $$;

-- What may change of a file, or is not on its tapes.
create function file_entry(f file) returns jsonb language sql immutable as $$
    select jsonb_build_object('node', f.node, 'state', f.state, 'owner', f.owner, 'grp', f.grp, 'mode', f.mode,
        'mtime_ns', f.mtime_ns, 'storage_class', f.storage_class, 'collocation', f.collocation,
        'deleted_at', f.deleted_at, 'deleted_path', f.deleted_path, 'deleted_by', f.deleted_by)
$$;

create trigger file_comes after insert on file referencing new table as come
    for each statement execute function journal_files();
create trigger file_changes after update on file referencing old table as gone new table as come
    for each statement execute function journal_files();
create trigger file_goes after delete on file referencing old table as gone
    for each statement execute function journal_files();

-- Where the bytes of a put are, and whose: with this a restore finds the files that no tape has yet. What was recalled is
-- on tape.
create function journal_replicas() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into journal (kind, id, removed) select 'replica', id, true from gone where origin = 'put' order by id;
    else
        insert into journal (kind, id, entry)
        select 'replica', c.id, jsonb_build_object('file', c.file, 'cache_server', c.cache_server, 'size', f.size,
            'adler32', f.adler32, 'digests', f.digests)
        from come c join file f on f.id = c.file where c.origin = 'put' order by c.id;
    end if;
    return null;
end $$;

create trigger replica_comes after insert on replica referencing new table as come
    for each statement execute function journal_replicas();
create trigger replica_goes after delete on replica referencing old table as gone
    for each statement execute function journal_replicas();

-- What an operator said of the hardware stands on no tape. By row: he says it of a few, and a volume is updated all the time.
create function journal_drive() returns trigger language plpgsql as $$
begin
    insert into journal (kind, id, entry) values ('drive', 0, jsonb_build_object('name', new.name, 'library', new.library,
                                                                                 'model', new.model));
    return null;
end $$;

create trigger drive_is_named after update of model on drive for each row when (new.model is distinct from old.model)
    execute function journal_drive();

create function journal_volume() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into journal (kind, id, removed, entry) values ('volume', 0, true, jsonb_build_object('name', old.vid));
    else
        insert into journal (kind, id, entry) values ('volume', 0, jsonb_build_object('name', new.vid, 'medium', new.medium));
    end if;
    return null;
end $$;

create trigger volume_is_named after update of medium on volume for each row when (new.medium is distinct from old.medium)
    execute function journal_volume();
create trigger named_volume_goes after delete on volume for each row when (old.medium <> '')
    execute function journal_volume();

-- ------------------------------------------------------------------ history is dropped by partition

create function make_history_partitions() returns void language plpgsql as $$
declare
    history text; month timestamptz; name text;
begin
    foreach history in array array['mount_history', 'event'] loop
        for ahead in 0..2 loop
            month := date_trunc('month', capstan_now() at time zone 'utc') at time zone 'utc' + make_interval(months => ahead);
            name := history || to_char(month at time zone 'utc', '"_y"YYYY"m"MM');
            if to_regclass(name) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L)', name, history, month,
                    month + interval '1 month');
            end if;
        end loop;
    end loop;
end $$;

create table mount_history_default partition of mount_history default;
create table event_default partition of event default;

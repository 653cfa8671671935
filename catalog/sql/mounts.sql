-- Live mounts. The row of a mount is the right to its drive and its volume: unique indexes guard both, and the row goes
-- only after the library has reported the volume out of the drive.

-- take --
-- Compare-and-set: the tapeserver that has the drive (one that was stopped may have lost it since it last asked), and
-- only one session of it.
update mount set state = 'loading', tapeserver = :tapeserver, changed_at = capstan_now()
where epoch = :epoch and state = 'planned'
  and exists (select from drive d where d.name = mount.drive and coalesce(d.tapeserver, :tapeserver) = :tapeserver)
returning epoch;

-- advance --
-- The table of steps is the trigger's; a mount that is over is no row.
update mount set state = :state, changed_at = capstan_now()
where epoch = :epoch and state <> :state returning epoch;

-- idle --
-- Since when stays as it is: the planner counts from there. Who has work again is no longer asked to rest.
update mount set idle_since = case when :idle then coalesce(idle_since, capstan_now()) end,
       stop_wanted = case when :idle or not starts_with(stop_wanted, :rest) then stop_wanted end
where epoch = :epoch and (idle_since is not null) <> :idle;

-- progress --
-- Added up by the session, at most some times a second: never a hot row.
update mount set files = files + :files, bytes = bytes + :bytes, changed_at = capstan_now() where epoch = :epoch;

-- want_stop --
-- The first reason stays: it is what the operator or the evidence said.
update mount set stop_wanted = coalesce(stop_wanted, :why)
where (cast(:drive as text) is null or drive = :drive) and (cast(:volume as text) is null or volume = :volume)
  and (cast(:library as text) is null or library = :library)
returning epoch;

-- lock_for_end --
-- Waits for the mount's work under way (it holds the row FOR KEY SHARE), and keeps new work out.
select epoch from mount where epoch = :epoch for update;

-- end --
-- The row moves to history, and what it did for whom to the usage of this day, in one statement. A mount that served
-- nobody was Capstan's own: it looked, labelled, verified, or failed. One that never began used no drive.
-- Planners hear of it with the commit, not by a round trip after it: the drive is free. Ends are few.
with gone as (
    delete from mount where epoch = :epoch returning *
), kept as (
    insert into mount_history (epoch, drive, volume, library, pool, purpose, reason_code, files, bytes, outcome, created_at)
    select epoch, drive, volume, library, pool, purpose, reason_code, files, bytes, :outcome, created_at from gone
    returning epoch
), parts as (
    select owner, grp, part, files_read, bytes_read, files_written, bytes_written from mount_part where epoch = :epoch
    union all
    select 'capstan', 'capstan', 1, 0, 0, 0, 0 where not exists (select from mount_served where epoch = :epoch)
), used as (
    insert into usage as u (day, library, owner, grp, mounts, drive_seconds, files_read, bytes_read, files_written,
                            bytes_written, used_at)
    select (capstan_now() at time zone 'utc')::date, g.library, p.owner, p.grp, p.part,
           p.part * greatest(0, extract(epoch from capstan_now() - g.created_at)), p.files_read, p.bytes_read,
           p.files_written, p.bytes_written, g.created_at + (capstan_now() - g.created_at) / 2
    from gone g cross join parts p where g.state <> 'planned' order by p.grp, p.owner
    on conflict (day, library, owner, grp) do update
    set mounts = u.mounts + excluded.mounts, drive_seconds = u.drive_seconds + excluded.drive_seconds,
        files_read = u.files_read + excluded.files_read, bytes_read = u.bytes_read + excluded.bytes_read,
        files_written = u.files_written + excluded.files_written,
        bytes_written = u.bytes_written + excluded.bytes_written,
        used_at = u.used_at + (excluded.used_at - u.used_at)
            * coalesce(excluded.drive_seconds / nullif(u.drive_seconds + excluded.drive_seconds, 0), 0)
)
select pg_notify(:channel, '') from kept;

-- recent_ends --
-- The newest rows by epoch, which grows: no index on time is needed for what ended just now. Counted in `fruitless` are
-- those whose outcome begins as given.
with newest as (
    select volume, drive, outcome, epoch, ended_at, files from mount_history
    where cast(:library as text) is null or library = :library order by epoch desc limit :limit
), last as (select distinct on (volume) * from newest order by volume, epoch desc)
select volume, drive, outcome, cast(extract(epoch from capstan_now() - ended_at) as double precision) as ago_seconds,
       cast((select count(*) from newest n where n.volume = last.volume and n.files = 0
             and exists (select from unnest(cast(:fruitless as text[])) as f (word) where starts_with(n.outcome, f.word))
             and n.epoch > coalesce((select max(m.epoch) from newest m where m.volume = last.volume and m.files > 0), 0)
            ) as integer) as fruitless
from last;

-- candidates_write --
-- Only on change: most rounds write nothing.
insert into candidate as c (kind, key, library, code, arguments)
select kind, key, :library, code, cast(arguments as jsonb)
from unnest(cast(:kinds as text[]), cast(:keys as text[]), cast(:codes as text[]), cast(:arguments as text[]))
     as t (kind, key, code, arguments)
order by 1, 2
on conflict (kind, key) do update
set library = excluded.library, code = excluded.code, arguments = excluded.arguments, changed_at = capstan_now()
where (c.library, c.code, c.arguments) is distinct from (excluded.library, excluded.code, excluded.arguments);

-- candidates_clear --
-- Without demand there is nothing to explain.
delete from candidate c where c.library = :library and not exists (
    select from unnest(cast(:kinds as text[]), cast(:keys as text[])) as t (kind, key)
    where t.kind = c.kind and t.key = c.key);

-- candidates_drop --
-- As candidates_clear, by those who know what they have written.
delete from candidate c using unnest(cast(:kinds as text[]), cast(:keys as text[])) as t (kind, key)
where c.library = :library and c.kind = t.kind and c.key = t.key;

-- Who has used the drives. What a live mount has done is in its own rows; its end adds them up (mounts.sql).

-- read --
-- From the recalls, which are about to end, and only those that this mount has: what it did, and for whom. The caller has
-- fenced the mount, and its own session alone writes these rows.
with mine as (
    select owner, grp, count(*) as files, sum(bytes) as bytes from recall
    where file = any(cast(:files as bigint[])) and epoch = :epoch group by 1, 2
), served as (
    insert into mount_served as s (epoch, owner, grp, files_read, bytes_read)
    select :epoch, owner, grp, files, bytes from mine order by grp, owner
    on conflict (epoch, owner, grp) do update
    set files_read = s.files_read + excluded.files_read, bytes_read = s.bytes_read + excluded.bytes_read
)
update mount set files = files + coalesce((select sum(files) from mine), 0),
       bytes = bytes + coalesce((select sum(bytes) from mine), 0), changed_at = capstan_now()
where epoch = :epoch;

-- report --
-- Whole days (UTC); what live mounts have used until now is of today. A null key is one that was not asked for.
with moved as (
    select day, owner, grp, mounts, drive_seconds, files_read, bytes_read, files_written, bytes_written from usage
    where day >= (capstan_now() at time zone 'utc')::date - cast(:days as integer)
    union all
    select (capstan_now() at time zone 'utc')::date, owner, grp, part, part * seconds, files_read, bytes_read,
           files_written, bytes_written
    from mount_part
)
select case when :by = 'day' then day end as day, case when :by = 'user' then owner end as owner,
       case when :by <> 'day' then grp end as grp, sum(mounts) as mounts, sum(drive_seconds) as drive_seconds,
       cast(sum(files_read) as bigint) as files_read, cast(sum(bytes_read) as bigint) as bytes_read,
       cast(sum(files_written) as bigint) as files_written, cast(sum(bytes_written) as bigint) as bytes_written
from moved
where (cast(:owner as text) is null or owner = :owner)
  and (cast(:groups as text[]) is null or grp = any(cast(:groups as text[])))
group by 1, 2, 3 order by 1 desc, sum(drive_seconds) desc, 3, 2 limit :limit;

-- decayed --
-- What counts half as much after each half-life. A day's row decays from the middle of its use, which for a half-life of
-- a day is 2 % off at most; what is older than twenty half-lives is nothing.
select owner, grp, sum(mounts * left_over) as mounts, sum(drive_seconds * left_over) as drive_seconds
from (
    select owner, grp, mounts, drive_seconds,
           power(0.5, greatest(0, extract(epoch from capstan_now() - used_at)) / cast(:half_life as double precision))
               as left_over
    from usage
    where library = :library
      and day >= (capstan_now() at time zone 'utc')::date - cast(ceil(20 * :half_life / 86400.0) as integer)
      and used_at > capstan_now() - make_interval(secs => 20 * cast(:half_life as double precision))
    union all
    select owner, grp, part, part * seconds, 1 from mount_part where library = :library
) as counted
group by owner, grp order by grp, owner;

-- totals --
-- The last two days, and live mounts (a null day), in one snapshot: a mount that ends goes from one to the other.
select day, owner, grp, mounts, drive_seconds from usage
where library = :library and day >= (capstan_now() at time zone 'utc')::date - 1
union all
select null, owner, grp, sum(part), sum(part * seconds) from mount_part where library = :library group by owner, grp;

-- What is expected of each volume that is waited for, and of each pool. The planner of a library writes, under its
-- lease; doors read.

-- said --
-- What a planner before this one has left, once for each lease.
select volume, cast(extract(epoch from begins_at) as double precision) as begins, reading_seconds as reading, files, mounted,
       in_hand_seconds as in_hand, in_hand_files
from estimate where library = :library

-- publish --
-- Only volumes that are still in the catalog; in their order, though nobody else writes these rows.
insert into estimate (volume, library, begins_at, reading_seconds, files, mounted, in_hand_seconds, in_hand_files)
select w.volume, :library, to_timestamp(w.begins), w.reading, w.files, w.mounted, w.in_hand, w.in_hand_files
from unnest(cast(:volumes as text[]), cast(:begins as double precision[]), cast(:readings as double precision[]),
            cast(:files as bigint[]), cast(:mounted as boolean[]), cast(:in_hand as double precision[]),
            cast(:in_hand_files as bigint[]))
     as w (volume, begins, reading, files, mounted, in_hand, in_hand_files)
join volume v on v.vid = w.volume order by w.volume
on conflict (volume) do update
set library = excluded.library, begins_at = excluded.begins_at, reading_seconds = excluded.reading_seconds,
    files = excluded.files, mounted = excluded.mounted, in_hand_seconds = excluded.in_hand_seconds,
    in_hand_files = excluded.in_hand_files

-- withdraw --
-- Nothing is expected of these any more.
delete from estimate where library = :library and volume = any(cast(:volumes as text[]))

-- publish_pools --
-- All of a library's at once: they are few. Of a pool that is not among them nothing is expected any more.
with gone as (
    delete from pool_estimate where library = :library and pool <> all(cast(:pools as text[]))
)
insert into pool_estimate (pool, library, begins_at, in_hand_seconds, writing_seconds, files, urgent, oldest_at, newest_at)
select w.pool, :library, to_timestamp(w.begins), w.in_hand, w.writing, w.files, w.urgent, to_timestamp(w.oldest),
       to_timestamp(w.newest)
from unnest(cast(:pools as text[]), cast(:begins as double precision[]), cast(:in_hand as double precision[]),
            cast(:writings as double precision[]), cast(:files as bigint[]), cast(:urgent as bigint[]),
            cast(:oldest as double precision[]), cast(:newest as double precision[]))
     as w (pool, begins, in_hand, writing, files, urgent, oldest, newest)
join pool p on p.name = w.pool order by w.pool
on conflict (pool) do update
set library = excluded.library, begins_at = excluded.begins_at, in_hand_seconds = excluded.in_hand_seconds,
    writing_seconds = excluded.writing_seconds, files = excluded.files, urgent = excluded.urgent,
    oldest_at = excluded.oldest_at, newest_at = excluded.newest_at

-- looked --
-- What stands there holds now, rewritten or not.
insert into estimate_look (library, at) values (:library, capstan_now())
on conflict (library) do update set at = excluded.at

-- in_hand --
-- What mounts have claimed, by the indexes of their epochs; of each no more rows are looked at than given.
select m.epoch, r.files as files_read, r.bytes as bytes_read, a.files as files_written, a.bytes as bytes_written
from unnest(cast(:epochs as bigint[])) as m (epoch)
cross join lateral (
    select count(*) as files, cast(coalesce(sum(bytes), 0) as bigint) as bytes
    from (select q.bytes from recall q where q.epoch = m.epoch limit :rows_max) as few) as r
cross join lateral (
    select count(*) as files, cast(coalesce(sum(bytes), 0) as bigint) as bytes
    from (select q.bytes from archive q where q.epoch = m.epoch limit :rows_max) as few) as a
where r.files > 0 or a.files > 0

-- of_volumes --
-- Seconds from now; what has not been looked at for long is not told. No list: all.
select e.volume, cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
       e.reading_seconds as reading, e.files, e.mounted, e.in_hand_seconds as in_hand, e.in_hand_files
from estimate e join estimate_look l on l.library = e.library
where l.at > capstan_now() - make_interval(secs => :seconds)
  and (cast(:volumes as text[]) is null or e.volume = any(cast(:volumes as text[])))

-- of_pools --
-- As of volumes.
select e.pool, cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
       e.in_hand_seconds as in_hand, e.writing_seconds as writing, e.files, e.urgent,
       cast(extract(epoch from e.oldest_at - capstan_now()) as double precision) as oldest,
       cast(extract(epoch from e.newest_at - capstan_now()) as double precision) as newest
from pool_estimate e join estimate_look l on l.library = e.library
where l.at > capstan_now() - make_interval(secs => :seconds)
  and (cast(:pools as text[]) is null or e.pool = any(cast(:pools as text[])))

-- of_files --
-- A file is read from whichever of its volumes is there first, or from the one whose mount has it in hand.
select q.file, q.state, e.begins, e.reading, e.files, e.mounted, e.in_hand, e.in_hand_files
from recall q left join lateral (
    select cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
           e.reading_seconds as reading, e.files, e.mounted, e.in_hand_seconds as in_hand, e.in_hand_files
    from (select d.volume from demand d where d.file = q.file and q.state = 'queued'
          union all select q.volume where q.state = 'claimed') as d
    join estimate e on e.volume = d.volume
    join estimate_look l on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds)
    order by e.begins_at, e.volume limit 1
) as e on true
where q.file = any(cast(:files as bigint[]))

-- of_request --
-- How many of its files are expected from which volume, each from the first that is there, or in whose mount's hand it
-- is; without times: of those nothing is known.
with best as (
    select distinct on (q.file) q.file, q.state = 'claimed' as claimed,
           case when q.state = 'claimed' then q.volume else e.volume end as volume
    from stage_item i join recall q on q.file = i.file
    left join (demand d join estimate e on e.volume = d.volume
               join estimate_look l on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds))
           on d.file = q.file
    where i.request = :request and i.state = 'started'
    order by q.file, e.begins_at nulls last, e.volume
)
select b.volume, b.claimed, count(*) as wanted,
       cast(extract(epoch from min(e.begins_at) - capstan_now()) as double precision) as begins,
       min(e.reading_seconds) as reading, min(e.files) as files, bool_or(e.mounted) as mounted,
       min(e.in_hand_seconds) as in_hand, min(e.in_hand_files) as in_hand_files
from best b left join (estimate e join estimate_look l
                       on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds))
            on e.volume = b.volume
group by b.volume, b.claimed

-- of_archives --
-- The copies of these files that are to be written, or are being written, each with what is expected of its pool. What
-- has failed too often waits for an operator, and what has just failed for a pause to end.
select a.file, a.copy_number, a.state, a.urgent,
       cast(extract(epoch from a.created_at - capstan_now()) as double precision) as came,
       cast(extract(epoch from a.not_before - capstan_now()) as double precision) as not_before,
       e.begins, e.in_hand, e.writing, e.files, e.wanted, e.oldest, e.newest
from archive a left join lateral (
    select cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
           e.in_hand_seconds as in_hand, e.writing_seconds as writing, e.files, e.urgent as wanted,
           cast(extract(epoch from e.oldest_at - capstan_now()) as double precision) as oldest,
           cast(extract(epoch from e.newest_at - capstan_now()) as double precision) as newest
    from pool_estimate e
    join estimate_look l on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds)
    where e.pool = a.pool and a.state <> 'held'
) as e on true
where a.file = any(cast(:files as bigint[])) order by a.file, a.copy_number

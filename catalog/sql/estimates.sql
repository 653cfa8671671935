-- What is expected of each volume that is waited for. The planner of a library writes, under its lease; doors read.

-- said --
-- What a planner before this one has left, once for each lease.
select volume, cast(extract(epoch from begins_at) as double precision) as begins, reading_seconds as reading, files, mounted
from estimate where library = :library

-- publish --
-- Only volumes that are still in the catalog; in their order, though nobody else writes these rows.
insert into estimate (volume, library, begins_at, reading_seconds, files, mounted)
select w.volume, :library, to_timestamp(w.begins), w.reading, w.files, w.mounted
from unnest(cast(:volumes as text[]), cast(:begins as double precision[]), cast(:readings as double precision[]),
            cast(:files as bigint[]), cast(:mounted as boolean[])) as w (volume, begins, reading, files, mounted)
join volume v on v.vid = w.volume order by w.volume
on conflict (volume) do update
set library = excluded.library, begins_at = excluded.begins_at, reading_seconds = excluded.reading_seconds,
    files = excluded.files, mounted = excluded.mounted

-- withdraw --
-- Nothing is expected of these any more.
delete from estimate where library = :library and volume = any(cast(:volumes as text[]))

-- looked --
-- What stands there holds now, rewritten or not.
insert into estimate_look (library, at) values (:library, capstan_now())
on conflict (library) do update set at = excluded.at

-- of_volumes --
-- Seconds from now; what has not been looked at for long is not told. No list: all.
select e.volume, cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
       e.reading_seconds as reading, e.files, e.mounted
from estimate e join estimate_look l on l.library = e.library
where l.at > capstan_now() - make_interval(secs => :seconds)
  and (cast(:volumes as text[]) is null or e.volume = any(cast(:volumes as text[])))

-- of_files --
-- A file is read from whichever of its volumes is there first. What a mount has taken already is nobody's guess any more.
select q.file, q.state, e.begins, e.reading, e.files, e.mounted
from recall q left join lateral (
    select cast(extract(epoch from e.begins_at - capstan_now()) as double precision) as begins,
           e.reading_seconds as reading, e.files, e.mounted
    from demand d join estimate e on e.volume = d.volume
    join estimate_look l on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds)
    where d.file = q.file and q.state = 'queued'
    order by e.begins_at, e.volume limit 1
) as e on true
where q.file = any(cast(:files as bigint[]))

-- of_request --
-- How many of its files are expected from which volume, each from the first that is there; without a volume: of those
-- nothing is known.
with best as (
    select distinct on (q.file) q.file, e.volume
    from stage_item i join recall q on q.file = i.file and q.state = 'queued'
    left join (demand d join estimate e on e.volume = d.volume
               join estimate_look l on l.library = e.library and l.at > capstan_now() - make_interval(secs => :seconds))
           on d.file = q.file
    where i.request = :request and i.state = 'started'
    order by q.file, e.begins_at nulls last, e.volume
)
select b.volume, count(*) as wanted,
       cast(extract(epoch from min(e.begins_at) - capstan_now()) as double precision) as begins,
       min(e.reading_seconds) as reading, min(e.files) as files, bool_or(e.mounted) as mounted
from best b left join estimate e on e.volume = b.volume group by b.volume

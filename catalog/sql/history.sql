-- What a site was asked for, page by page, for a trace of the simulator. Reads only, and never all of it at once.

-- first_request --
-- Requests come by number, which is nearly their order in time; what is before the first one is not looked at again.
select min(id) from stage_request where created_at >= capstan_now() - make_interval(secs => :seconds)

-- requests --
-- Who asked for what is to be read next, and on whose behalf: the first group of his token, while that is remembered.
select r.id, cast(extract(epoch from r.created_at) as double precision) as at, r.owner,
       coalesce(t.groups[1], '') as grp, r.activity, r.priority
from stage_request r left join token t on t.id = r.token
where r.id > :after and r.origin <> 'repair' order by r.id limit :limit

-- wanted --
-- What ended in the moment in which it was looked up was on disk; what failed or was taken back counts for nothing. Of
-- several copies the first is taken: which one was read is not kept. A volume that was labelled anew has the copy no more.
select i.request, i.number, i.cohort, c.volume, c.length,
       c.first_block * v.block_size + c.byte_offset as position
from stage_item i left join lateral (
    select c.* from copy c join volume v on v.vid = c.volume and v.generation = c.generation
    where c.file = i.file and (cast(:library as text) is null or v.library = :library)
    order by c.copy_number, c.id limit 1
) as c on true
left join volume v on v.vid = c.volume
where (i.request, i.number) > (:request, :number) and i.request <= :last
  and (i.state = 'started' or (i.state = 'completed' and i.finished_at > i.started_at + interval '100 milliseconds'))
order by i.request, i.number limit :limit

-- volumes --
-- Those that are named, and those of pools that anything could have been written to; each as far as it was written when
-- the history begins: what came later is written again in a simulation. From the end back, by the index of positions.
select v.vid, v.pool, v.capacity_bytes, coalesce(nullif(v.medium, ''), l.spec ->> 'medium') as medium, coalesce((
    select c.first_block * v.block_size + c.byte_offset + c.length from copy c
    where c.volume = v.vid and c.generation = v.generation
      and c.created_at < capstan_now() - make_interval(secs => :seconds)
    order by c.first_block desc, c.byte_offset desc limit 1), 0) as written_bytes
from volume v join library l on l.name = v.library
where v.vid = any(cast(:volumes as text[]))
   or (v.pool = any(cast(:pools as text[])) and v.state in ('blank', 'active', 'full'))
order by v.vid

-- first_file --
-- As with requests.
select min(id) from file where created_at >= capstan_now() - make_interval(secs => :seconds)

-- archived --
-- Each required copy of a file once, from when the file was put: those on tape, whatever has become of them since, and
-- those that still wait. Pages are of files, so that those without a copy here are passed over too.
with page as (
    select id, created_at, owner, grp, max(id) over () as last
    from (select id, created_at, owner, grp from file where id > :after order by id limit :limit) as f
)
select f.last, f.id as file, cast(extract(epoch from f.created_at) as double precision) as at,
       n.pool, n.bytes, f.owner, f.grp
from page f left join lateral (
    select c.copy_number, min(v.pool) as pool, min(c.length) as bytes
    from copy c join volume v on v.vid = c.volume
    where c.file = f.id and v.pool is not null and (cast(:library as text) is null or v.library = :library)
    group by c.copy_number
    union
    select a.copy_number, a.pool, a.bytes from archive a join pool p on p.name = a.pool
    where a.file = f.id and (cast(:library as text) is null or p.library = :library)
      and not exists (select from copy c where c.file = f.id and c.copy_number = a.copy_number)
) as n on true
order by f.id, n.copy_number

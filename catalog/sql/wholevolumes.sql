-- page --
-- Keyset by position, which is the index of the copies, so that a volume of millions of files is read in pages.
select node_path(f.node) as path, f.size, c.first_block, c.byte_offset,
       exists(select from replica r where r.file = f.id and r.state = 'on_disk') as on_disk,
       exists(select from recall q where q.file = f.id) as wanted
from volume v join copy c on c.volume = v.vid and c.generation = v.generation and c.broken_at is null
join file f on f.id = c.file and f.state = 'live'
where v.vid = :vid and (c.first_block, c.byte_offset)
    > (cast(:after_block as bigint), cast(:after_offset as bigint))
order by c.first_block, c.byte_offset, c.file limit :limit;

-- use --
-- Of the first files by position: a volume of ten million is not counted for a guess.
with here as (
    select c.file from volume v join copy c on c.volume = v.vid and c.generation = v.generation and c.broken_at is null
    join file f on f.id = c.file and f.state = 'live'
    where v.vid = :vid order by c.first_block, c.byte_offset limit :limit
)
select count(*) as files, count(*) filter (
    where exists (select from recall q where q.file = h.file)
       or exists (select from replica r where r.file = h.file and r.state = 'on_disk' and r.origin = 'recall')) as of_use
from here h;

-- Tape files behind the catalog's end that turned out to be whole: each becomes true in one transaction.

-- files --
-- Held against removal, as for every new copy; in the order of ids. The files come before the archives.
select id, state, size, adler32 from file where id = any(cast(:files as bigint[])) order by id for key share;

-- archives --
-- Whoever has claimed one of these commits or gives it back before this lock is had, or keeps it: then it is his.
select a.id, a.file, a.copy_number, a.state from archive a
join unnest(cast(:files as bigint[]), cast(:copy_numbers as integer[])) as t (file, copy_number)
  on a.file = t.file and a.copy_number = t.copy_number
order by a.id for update of a;

-- counted --
-- Copies of these numbers that count already, here or elsewhere. Asked behind the lock of the archives: a commit that
-- was waited for is seen.
select distinct c.file, c.copy_number from good_copy c
join unnest(cast(:files as bigint[]), cast(:copy_numbers as integer[])) as t (file, copy_number)
  on c.file = t.file and c.copy_number = t.copy_number;

-- archives_done --
-- Only what nobody has claimed; the counters are told of what was queued, from the very rows.
with gone as (
    delete from archive where id = any(cast(:archives as bigint[])) and state <> 'claimed'
    returning pool, owner, grp, bytes, urgent, state
), told as (
    insert into queue_delta (kind, key, owner, grp, activity, priority, files, bytes, urgent)
    select 'archive', pool, owner, grp, '', 0, -count(*), -sum(bytes), -(count(*) filter (where urgent))
    from gone where state = 'queued' group by 2, 3, 4
)
select count(*) from gone;

-- copies --
-- A repeat after an unknown outcome finds them there.
insert into copy (file, copy_number, volume, generation, tape_file, first_block, byte_offset, length, epoch)
select t.file, t.copy_number, :volume, :generation, :tape_file, :first_block, t.byte_offset, t.length, :epoch
from unnest(cast(:files as bigint[]), cast(:copy_numbers as integer[]), cast(:byte_offsets as bigint[]),
            cast(:lengths as bigint[])) as t (file, copy_number, byte_offset, length)
on conflict do nothing returning file;

-- names --
-- Free names only; of two files of one path the younger one is first in the list and gets it.
insert into node (parent, name, kind)
select parent, name, 'file' from unnest(cast(:parents as bigint[]), cast(:names as text[])) as t (parent, name)
order by parent, name on conflict (parent, name) do nothing returning id, parent, name;

-- of_a_lost_life --
-- Of these ids, those that no row has and that this life of the catalog has not given: they lie where a restore or a
-- rebuild left a gap, or were ahead of what was given (numbered by somebody who saw more of the tapes) until `pass_ids`.
-- No range lies within another, so the nearest one decides: after a restore there may be many.
select wanted.id from unnest(cast(:files as bigint[])) as wanted (id)
where not exists (select from file f where f.id = wanted.id)
  and wanted.id <= (select l.last_file from lost_life l where l.first_file <= wanted.id
                    order by l.first_file desc limit 1)
order by wanted.id;

-- make_files --
-- The catalog was restored from a backup that is older than the tape: the file comes back with its id.
insert into file (id, node, state, size, adler32, digests, mtime_ns, mode, owner, grp, storage_class, stored_path,
                  deleted_at, deleted_path, deleted_by)
overriding system value
select t.id, t.node, case when t.node is null then 'deleted' else 'live' end, t.size, t.adler32,
       cast(t.digests as jsonb), t.mtime_ns, t.mode, t.owner, t.grp,
       coalesce((select name from storage_class where name = t.class), (select name from storage_class where is_default),
                (select min(name) from storage_class)),
       t.path, case when t.node is null then capstan_now() end, case when t.node is null then t.path end,
       case when t.node is null then :who end
from unnest(cast(:ids as bigint[]), cast(:nodes as bigint[]), cast(:sizes as bigint[]), cast(:adler32s as text[]),
            cast(:digests as text[]), cast(:mtimes_ns as bigint[]), cast(:modes as integer[]), cast(:owners as text[]),
            cast(:groups as text[]), cast(:classes as text[]), cast(:paths as text[]))
     as t (id, node, size, adler32, digests, mtime_ns, mode, owner, grp, class, path)
on conflict (id) do nothing returning id;

-- ids_ahead --
-- Whether this id has not been given yet; asked without a lock.
select coalesce(pg_sequence_last_value('file_id_seq'), 0) < :id;

-- hold_ids --
-- Changes nothing, and until the transaction ends nobody is given an id: to read the sequence and then to set it would
-- put it back behind what others were given in between. Waits for the transactions that were.
alter sequence file_id_seq increment by 1;

-- pass_ids --
-- What lies between is of a life that is lost; told in the transaction that passes it, so that neither is without the
-- other. The id to go on with.
insert into lost_life (first_file, last_file)
select coalesce(pg_sequence_last_value('file_id_seq'), 0) + 1, cast(:id as bigint)
where coalesce(pg_sequence_last_value('file_id_seq'), 0) < :id
on conflict (first_file) do update set last_file = greatest(lost_life.last_file, excluded.last_file)
returning last_file + 1;

-- volume --
-- The end of the volume as it is recorded now, under the lock that its change takes anyway.
select generation, written_bytes, block_size, index_block, tape_files, end_block from volume
where vid = :volume for no key update;

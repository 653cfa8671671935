-- The recycle bin: files that lost their name and still lie on tape.

-- listed --
-- By path, with a keyset on the beginning of it that the index holds; the rest of a long path is compared row by row.
-- Of the copies those count that a restored file would have.
select f.id as file_id, f.deleted_path as path, f.size, f.owner, f.grp as "group", f.storage_class, f.deleted_at, f.deleted_by,
       (select count(distinct c.copy_number) from present_copy c where c.file = f.id) as copies
from file f
where f.state = 'deleted'
  and (left(f.deleted_path, 200), f.id) > (cast(:after_path as text) collate "C", cast(:after_id as bigint))
  and left(f.deleted_path, 200) >= left(:prefix, 200) collate "C"
  and left(f.deleted_path, 200) < (left(:prefix, 200) || chr(1114111)) collate "C"
  and (f.deleted_path = :prefix or starts_with(f.deleted_path, rtrim(:prefix, '/') || '/'))
order by left(f.deleted_path, 200), f.id limit :limit;

-- newest_at --
-- Of several files that had this name one after the other, the one that was removed last.
select id from file
where state = 'deleted' and left(deleted_path, 200) = left(:path, 200) and deleted_path = :path
order by deleted_at desc, id desc limit 1;

-- hold_volumes --
-- Before the file's row, as in a reclaim, which holds its volume and then gives up its files: either it sees the file
-- live, or the statements after this see that its copies are gone.
select vid from volume where vid in (select volume from copy where file = :file) order by vid for share;

-- lock_file --
-- Of a restore and a purge at once the later one finds another state. After a restore of the catalog there may be files
-- that came back without a name and are on disk only.
select state, size, deleted_path, exists (select from copy c where c.file = f.id)
       or exists (select from replica r where r.file = f.id and r.state = 'on_disk') as has_bytes
from file f where id = :file for update of f;

-- insert_name --
-- The unique index decides against what is made under this name meanwhile.
insert into node (parent, name, kind) values (:parent, :name, 'file') on conflict (parent, name) do nothing returning id;

-- restore --
-- Live under its new node; what was recorded of the removal is over.
update file set state = 'live', node = :node, deleted_at = null, deleted_path = null, deleted_by = null where id = :file;

-- purge --
-- SKIP LOCKED: what somebody restores at this moment is his.
with chosen as (
    select id, size from file
    where state = 'deleted'
      and (cast(:files as bigint[]) is null or id = any(cast(:files as bigint[])))
      and (cast(:older_than_seconds as double precision) is null
           or deleted_at < capstan_now() - make_interval(secs => cast(:older_than_seconds as double precision)))
      and (cast(:prefix as text) is null
           or (left(deleted_path, 200) >= left(cast(:prefix as text), 200) collate "C"
               and left(deleted_path, 200) < (left(cast(:prefix as text), 200) || chr(1114111)) collate "C"
               and (deleted_path = :prefix or starts_with(deleted_path, rtrim(cast(:prefix as text), '/') || '/'))))
    order by id limit :limit for update skip locked
), purged as (
    update file f set state = 'purged' from chosen c where f.id = c.id returning c.size
), off_disk as (
    update replica r set state = 'evicting', why = 'file purged' from chosen c
    where r.file = c.id and r.state in ('on_disk', 'quarantined')
)
select count(*) as files, coalesce(sum(size), 0)::bigint as bytes from purged;

-- forget --
-- Nothing refers to it any more, and has not for so long that no tape can bring it up again as something unknown.
with chosen as (
    select f.id from file f
    where f.state = 'purged' and f.deleted_at < capstan_now() - make_interval(secs => :kept_seconds)
      and not exists (select from copy x where x.file = f.id)
      and not exists (select from replica x where x.file = f.id)
      and not exists (select from reservation x where x.file = f.id)
      and not exists (select from pin x where x.file = f.id)
      and not exists (select from recall x where x.file = f.id)
      and not exists (select from archive x where x.file = f.id)
      and not exists (select from journal_segment x where x.file = f.id)
      and not exists (select from stage_item x where x.file = f.id and x.state in ('submitted', 'started'))
    order by f.deleted_at limit :limit for update of f skip locked
)
delete from file f using chosen c where f.id = c.id returning f.id;

-- Long work on media: verify, repack, audit, label. The row is the state; whoever comes carries it on from its cursor.

-- begin --
-- One live row per kind and key, by the partial unique index: whoever comes second gets no row.
insert into maintenance (kind, key, who, reason, options)
values (:kind, :key, :who, :reason, cast(:options as jsonb))
on conflict (kind, key) where state in ('queued', 'running') do nothing returning id;

-- begin_or_again --
-- One that is under way may have passed by already what this one is about: it starts anew at its end.
insert into maintenance (kind, key, who, reason) values ('audit', :key, :who, :reason)
on conflict (kind, key) where state in ('queued', 'running')
do update set options = maintenance.options || '{"again": true}' returning id;

-- size_up --
-- Once, when it begins.
update maintenance set files = :files, bytes = :bytes where id = :id;

-- lock --
-- SKIP LOCKED: what another carries on just now is not waited for.
select * from maintenance where id = :id and state in ('queued', 'running') for update skip locked;

-- lock_waiting --
-- For a word that must be heard: waits for the step under way.
select * from maintenance where id = :id for update;

-- progress --
-- Sums grow by what the step did; the cursor is where it stands now. The first step makes it running.
update maintenance set state = 'running', cursor = cast(:cursor as jsonb), files = files + :files, bytes = bytes + :bytes,
       done_files = done_files + :done_files, done_bytes = done_bytes + :done_bytes, errors = errors + :errors,
       note = coalesce(cast(:note as text), note), changed_at = capstan_now()
where id = :id and state in ('queued', 'running') returning id;

-- start --
-- The machine knows no way to an end but through running.
update maintenance set state = 'running', changed_at = capstan_now() where id = :id and state = 'queued';

-- finish --
-- Only what is live ends, and once.
update maintenance set state = :state, note = coalesce(cast(:note as text), note), changed_at = capstan_now()
where id = :id and state in ('queued', 'running') returning id;

-- restart --
-- Somebody wanted the same while it was under way: over it all once more.
update maintenance set options = options - 'again', cursor = '{}', changed_at = capstan_now() where id = :id;

-- forget --
-- What ended long ago is in the audit log.
delete from maintenance where id in (
    select id from maintenance where state in ('done', 'failed', 'cancelled')
      and changed_at < capstan_now() - make_interval(secs => :seconds) order by id limit :limit);

-- copies_on --
-- What there is to do on a volume when it begins. Purged files do not count: nobody may ask for them.
select count(*) as files, coalesce(sum(f.size), 0)::bigint as bytes
from volume v join copy c on c.volume = v.vid and c.generation = v.generation and c.broken_at is null
join file f on f.id = c.file and (f.state = 'live' or f.state = :state)
where v.vid = :volume;

-- verify_copies --
-- By position, behind the cursor; the generation as one value, so that the index gives the order. A sample is drawn by
-- the hash of file and row: the same in every repetition of this pass, another one in the next.
select c.file as file_id, f.size, f.adler32, c.generation, c.tape_file, c.first_block, c.byte_offset
from copy c join file f on f.id = c.file and f.state <> 'purged'
where c.volume = :volume and c.generation = (select v.generation from volume v where v.vid = :volume)
  and c.broken_at is null and (c.first_block, c.byte_offset) > (:after_block, :after_offset)
  and (cast(:share as double precision) >= 1
       or abs(hashint8extended(c.file, :seed) % 1000000) < 1000000 * cast(:share as double precision))
order by c.first_block, c.byte_offset limit :limit;

-- verify_again --
-- Those that failed in an earlier mount of this verify, read once more.
select c.file as file_id, f.size, f.adler32, c.generation, c.tape_file, c.first_block, c.byte_offset
from volume v join copy c on c.volume = v.vid and c.generation = v.generation and c.broken_at is null
join file f on f.id = c.file and f.state <> 'purged'
where v.vid = :volume and c.file = any(cast(:files as bigint[]))
order by c.first_block, c.byte_offset;

-- verified --
-- All that counts on it was read back.
update volume set verified_at = capstan_now() where vid = :volume;

-- verify_due --
-- By age: volumes with something on them that nobody has read back for so long, and that nobody tried to since.
select v.vid from volume v
where volume_is_readable(v.state) and v.state <> 'repacking' and v.tape_files > 0
  and coalesce(v.verified_at, v.labelled_at, v.since) < capstan_now() - make_interval(secs => :seconds)
  and v.library = any(cast(:libraries as text[]))
  and not exists (select from maintenance m where m.kind = 'verify' and m.key = v.vid
                  and (m.state in ('queued', 'running')
                       or m.changed_at > capstan_now() - make_interval(secs => :seconds)))
  and exists (select from copy c where c.volume = v.vid and c.generation = v.generation)
order by coalesce(v.verified_at, v.labelled_at, v.since), v.vid limit :limit;

-- audits_due --
-- Storage classes that nobody has looked through for so long. A new catalog has time.
select s.name from storage_class s cross join catalog_identity i
where i.created_at < capstan_now() - make_interval(secs => :seconds)
  and not exists (select from maintenance m where m.kind = 'audit' and m.key = s.name
                  and (m.state in ('queued', 'running')
                       or m.created_at > capstan_now() - make_interval(secs => :seconds)))
order by s.name;

-- classes_on --
-- Storage classes of the live files with a copy on this volume, of any generation.
select distinct f.storage_class from copy c join file f on f.id = c.file and f.state = 'live'
where c.volume = :volume order by 1;

-- audit_window --
-- A window of live files of the class by id; told are only those that lack a copy which no archive makes already. So many
-- ids are passed over at most, of whatever class: where the class is rare the window is small, or empty, and never late.
with passed as materialized (
    select f.id, f.size, f.storage_class, f.state from file f where f.id > :after order by f.id limit :passed
), seen as materialized (
    select id, size from passed where storage_class = :class and state = 'live' order by id limit :limit
), reached as (
    select case when (select count(*) from seen) = :limit then (select max(id) from seen)
                else (select max(id) from passed) end as last, (select count(*) from seen) as seen
), good as (
    select c.file, array_agg(distinct c.copy_number) as numbers from good_copy c join seen on seen.id = c.file group by 1
), coming as (
    select a.file, array_agg(distinct a.copy_number) as numbers from archive a join seen on seen.id = a.file group by 1
), there as (
    select r.file from replica r join seen on seen.id = r.file where r.state = 'on_disk' group by 1
), lack as (
    select seen.id, seen.size, there.file is not null as on_disk,
           (select count(*) from storage_class s, generate_series(1, s.copies) n
            where s.name = :class and not n = any(coalesce(good.numbers, '{}') || coalesce(coming.numbers, '{}'))) as lacking
    from seen left join good on good.file = seen.id left join coming on coming.file = seen.id
    left join there on there.file = seen.id
)
select lack.id as file, lack.size, lack.on_disk, lack.lacking, reached.last, reached.seen,
       exists (select from present_copy p where p.file = lack.id) as on_tape
from reached left join lack on lack.lacking > 0
order by lack.id;

-- audit_seen --
-- How much of its window a step had room for.
select count(*) from file where storage_class = :class and state = 'live' and id > :after and id <= :last;

-- repair_insert --
-- A request of Capstan's own, so that one recall serves it and the users' alike.
insert into stage_request (owner, origin, activity, priority, items, items_live)
values ('capstan', 'repair', :activity, :priority, :items, :items) returning id;

-- repair_items --
-- Files are known: nothing is to be resolved. The path is what the file was stored under, for who reads the request.
insert into stage_item (request, number, path, file, lifetime_seconds)
select :request, t.number, f.stored_path, f.id, :lifetime_seconds
from unnest(cast(:files as bigint[])) with ordinality as t (file, number) join file f on f.id = t.file order by t.number;

-- repair_on_disk --
-- Pinned in the transaction that found them there, so that they stay until they are written.
with done as (
    update stage_item set state = 'completed', started_at = capstan_now(), finished_at = capstan_now()
    where request = :request and file = any(cast(:files as bigint[])) and state = 'submitted'
    returning request, file, lifetime_seconds
)
insert into pin (file, owner, expires_at)
select file, 'request:' || request, capstan_now() + make_interval(secs => lifetime_seconds) from done order by file
on conflict (file, owner) do update set expires_at = greatest(pin.expires_at, excluded.expires_at);

-- repair_failed --
-- No copy is left to read.
update stage_item set state = 'failed', error_code = 'lost', error = :error,
       started_at = capstan_now(), finished_at = capstan_now()
where request = :request and file = any(cast(:files as bigint[])) and state = 'submitted';

-- repair_ahead --
-- Requests of one piece of work, and what of them is still under way. Of a repack (`volume` given) a file is under way
-- until its copy there is gone, or its pin; of an audit until it is on disk: then its archive is queued with its arrival.
select r.id, r.items_live,
       count(*) filter (where w.open) as files, coalesce(sum(f.size) filter (where w.open), 0)::bigint as bytes,
       count(*) filter (where i.state = 'failed') as failed,
       count(*) filter (where w.settled) as moved, coalesce(sum(f.size) filter (where w.settled), 0)::bigint as moved_bytes,
       coalesce(array_agg(i.file) filter (where w.open and i.state = 'completed' and not exists (
           select from archive a where a.file = i.file and a.copy_number = w.copy_number)), '{}') as ready
from stage_request r join stage_item i on i.request = r.id left join file f on f.id = i.file
cross join lateral (
    select c.copy_number,
           f.state = 'live' and i.state not in ('failed', 'cancelled')
           and (i.state <> 'completed' or (c.file is not null
                and i.finished_at > capstan_now() - make_interval(secs => i.lifetime_seconds))) as open,
           f.state = 'live' and i.state = 'completed' and c.file is null as settled
    from (select 1) one left join lateral (
        select c.file, c.copy_number from copy c join volume v on v.vid = c.volume and v.generation = c.generation
        where c.volume = cast(:volume as text) and c.file = i.file and c.broken_at is null limit 1) c on true) w
where r.owner = 'capstan' and r.origin = 'repair' and r.activity = :activity
group by r.id order by r.id;

-- repack_copies --
-- Live copies by position, behind the cursor, as for a verify; those that are under way already are passed over. They
-- are few: gathered once.
select c.file, f.size, c.first_block, c.byte_offset
from copy c join file f on f.id = c.file and f.state = 'live'
where c.volume = :volume and c.generation = (select v.generation from volume v where v.vid = :volume)
  and c.broken_at is null and (c.first_block, c.byte_offset) > (:after_block, :after_offset)
  and c.file not in (select i.file from stage_request r join stage_item i on i.request = r.id
                     where r.owner = 'capstan' and r.activity = :activity and i.file is not null
                       and i.state not in ('failed', 'cancelled'))
order by c.first_block, c.byte_offset limit :limit;

-- indexes_due --
-- Full or closed, with something on them that no index tells of, and nobody there to write it; or with an end on the tape
-- that nobody has looked at since a restore: such a mount finds it, and adopts what is behind. Once for each time that a
-- volume was closed, or the catalog restored; what a repack has emptied is about to be given up.
select v.vid from volume v
where ((v.state in ('full', 'closed') and v.tape_files > v.indexed_tape_files)
       or (v.state in ('active', 'full', 'closed') and not v.end_verified))
  and not exists (select from mount m where m.volume = v.vid)
  and not exists (select from maintenance i where i.kind = 'index' and i.key = v.vid
                  and (i.state in ('queued', 'running')
                       or i.created_at >= greatest(v.full_at, v.closed_at, case when not v.end_verified then
                                                   (select max(ended_at) from lost_life) end)))
  and (not v.end_verified or (
       not exists (select from maintenance r where r.kind = 'repack' and r.key = v.vid and r.state = 'done'
                   and r.created_at >= coalesce(v.labelled_at, '-infinity'))
       and exists (select from copy c where c.volume = v.vid and c.generation = v.generation)))
order by v.vid limit :limit;

-- indexes_live --
-- What has become of those that are wanted.
select m.id, v.vid, v.state, v.end_verified, v.end_verified and v.tape_files <= v.indexed_tape_files as written,
       coalesce(cast(m.cursor ->> 'starts' as integer), 0) as starts,
       exists (select from mount x where x.volume = v.vid) as mounted
from maintenance m join volume v on v.vid = m.key
where m.kind = 'index' and m.state in ('queued', 'running') order by m.id;

-- index_live --
-- At most one, by the partial unique index.
select id from maintenance where kind = 'index' and key = :volume and state in ('queued', 'running');

-- index_start --
-- Counted by the mount that tries, whatever comes of it.
update maintenance set state = 'running', changed_at = capstan_now(),
       cursor = jsonb_build_object('starts', coalesce(cast(cursor ->> 'starts' as integer), 0) + 1)
where kind = 'index' and key = :volume and state in ('queued', 'running');

-- waiting_volumes --
-- Volumes of a library that wait for a mount of their own kind. A label comes first; an index only while it is missing,
-- and was not tried too often.
select m.id, m.kind, m.key as volume, v.pool, v.state as volume_state, v.reason as volume_reason, m.options,
       cast(extract(epoch from capstan_now() - m.created_at) as double precision) as age_seconds
from maintenance m join volume v on v.vid = m.key
where m.kind in ('verify', 'label', 'index') and m.state in ('queued', 'running') and v.library = :library
  and (m.kind <> 'index' or ((not v.end_verified or (v.tape_files > v.indexed_tape_files and v.state <> 'active'))
                             and coalesce(cast(m.cursor ->> 'starts' as integer), 0) < :index_starts_max))
order by array_position(array['label', 'index', 'verify'], m.kind), m.created_at, m.id limit :limit;

-- repacks --
-- Of these libraries; by age.
select m.id from maintenance m join volume v on v.vid = m.key
where m.kind = 'repack' and m.state in ('queued', 'running') and v.library = any(cast(:libraries as text[]))
order by m.created_at, m.id;

-- audits --
-- Of all classes: a class has pools in several libraries.
select id from maintenance where kind = 'audit' and state in ('queued', 'running') order by created_at, id;

-- lock_volume --
-- Excludes new mounts (their foreign key) and every change of its state.
select vid, library, state, generation, capacity_bytes, tape_files, end_verified from volume
where vid = :volume for update;

-- lock_files_on --
-- What is restored from the recycle bin at this moment is restored before this, or finds nothing. Order of ids.
select f.id from file f where f.id in (select c.file from copy c where c.volume = :volume) order by f.id for update;

-- in_the_way --
-- Live files (a broken copy of a file that is safe without it is in nobody's way), files deleted too lately, and when
-- something on this volume ceased to count last: a deletion, a repack, a copy found broken.
select count(*) filter (where f.state = 'live' and (c.broken_at is null or not file_is_safe(f.id))) as live,
       count(*) filter (where f.state = 'deleted'
                        and f.deleted_at > capstan_now() - make_interval(secs => :recycle_seconds)) as recent,
       count(*) as copies,
       greatest(max(f.deleted_at), max(c.broken_at), (select left_at from volume where vid = :volume)) as changed_at
from copy c join file f on f.id = c.file where c.volume = :volume;

-- backup_since --
-- Read back once, still there, and begun after the last change: restored from it, nothing points at this volume.
select exists (select from catalog_backup where verified_at is not null and removed_at is null and began_at > :since);

-- last_to_leave --
-- The file that was deleted last of those on the volume: it stays until the reclaim itself, so that what a backup has to
-- be newer than does not change on the way there.
select f.deleted_at, f.id from copy c join file f on f.id = c.file where c.volume = :volume
order by f.deleted_at desc nulls last, f.id desc limit 1;

-- reclaim_window --
-- By position, behind the cursor, of every generation.
select c.file, c.generation, c.first_block, c.byte_offset from copy c
where c.volume = :volume
  and (c.generation, c.first_block, c.byte_offset, c.file) > (:generation, :first_block, :byte_offset, :file)
order by c.generation, c.first_block, c.byte_offset, c.file limit :limit;

-- lock_given_up --
-- Of these files those that nobody may want back, in the order of ids. What is restored at this moment is waited for, and
-- then is not among them.
select f.id from file f
where f.id = any(cast(:files as bigint[]))
  and (f.state = 'purged' or (f.state = 'deleted'
       and f.deleted_at <= capstan_now() - make_interval(secs => :recycle_seconds)))
  and (f.deleted_at, f.id) < (cast(:last_at as timestamptz), cast(:last_id as bigint))
order by f.id for update;

-- drop_copies --
-- Who still waits for one of them hears of it in the reclaim.
delete from copy c where c.volume = :volume and c.file = any(cast(:files as bigint[]))
  and not exists (select from demand d where d.copy = c.id);

-- reclaim --
-- Everything on the volume is given up. What has no other copy, replica or archive is gone for good; the triggers tell
-- the journal.
with gone as (
    delete from copy where volume = :volume returning file
), extents as (
    delete from dead_extent where volume = :volume
), together as (
    delete from collocation where volume = :volume
)
select distinct file from gone order by file;

-- forget_files --
-- Asked by a statement of its own, which sees that the copies are gone. A file that anything still refers to stays; who
-- does is looked up by index, file by file, whatever the tables' statistics say in the middle of a large deletion.
with wanted as materialized (
    select unnest(cast(:files as bigint[])) as id
), kept as (
    select c.file from wanted w join copy c on c.file = w.id
    union all select r.file from wanted w join replica r on r.file = w.id
    union all select a.file from wanted w join archive a on a.file = w.id
    union all select q.file from wanted w join recall q on q.file = w.id
    union all select p.file from wanted w join pin p on p.file = w.id
    union all select s.file from reservation s where s.file is not null
    union all select j.file from journal_segment j where j.file is not null
)
delete from file f using wanted w
where f.id = w.id and f.state in ('deleted', 'purged') and f.id not in (select file from kept);

-- empty_volume --
-- The generation stays: the next label has a higher one, so that nothing of before is ever taken for something of now.
update volume set state = 'blank', reason = '', changed_by = :who, since = capstan_now(), tape_files = 0, end_block = 0,
       written_bytes = 0, index_block = 0, indexed_tape_files = 0, end_verified = true, full_at = null, closed_at = null,
       labelled_at = null, written_at = null, read_at = null, verified_at = null
where vid = :volume;

-- remove --
-- Nothing refers to it: the foreign keys refuse anything else.
delete from volume where vid = :volume;
